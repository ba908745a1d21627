c     SPDX-License-Identifier: BSD-2-Clause
c     The ring in Fortran 77, with an operation of its own: MPI calls back into Fortran.
      subroutine added(a, b, n, kind)
      integer n, kind, i
      double precision a(n), b(n)
      do 10 i = 1, n
         b(i) = a(i) + b(i)
 10   continue
      end

      program ring
      include 'mpif.h'
      external added
      integer rank, ranks, left, op, err, status(MPI_STATUS_SIZE)
      double precision one, sum
      call MPI_INIT(err)
      call MPI_COMM_RANK(MPI_COMM_WORLD, rank, err)
      call MPI_COMM_SIZE(MPI_COMM_WORLD, ranks, err)
      call MPI_SENDRECV(rank, 1, MPI_INTEGER, mod(rank + 1, ranks), 7,
     &     left, 1, MPI_INTEGER, mod(rank + ranks - 1, ranks), 7,
     &     MPI_COMM_WORLD, status, err)
      if (status(MPI_SOURCE) .ne. left) print *, 'wrong status'
      one = rank + 0.5d0
      call MPI_OP_CREATE(added, .true., op, err)
      call MPI_ALLREDUCE(one, sum, 1, MPI_DOUBLE_PRECISION, op,
     &     MPI_COMM_WORLD, err)
      if (rank .eq. 0) write (*, 20) ranks, left, sum
 20   format ('ring of ', i0, ': left ', i0, ', sum ', f0.1)
      call MPI_FINALIZE(err)
      end
