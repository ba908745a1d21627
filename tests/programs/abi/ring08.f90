! SPDX-License-Identifier: BSD-2-Clause
! The ring in Fortran 2008: typed handles, optional errors.
program ring
	use mpi_f08
	implicit none
	integer :: rank, ranks, left
	double precision :: sum
	type(MPI_Request) :: requests(2)

	call MPI_Init()
	call MPI_Comm_rank(MPI_COMM_WORLD, rank)
	call MPI_Comm_size(MPI_COMM_WORLD, ranks)
	call MPI_Irecv(left, 1, MPI_INTEGER, mod(rank + ranks - 1, ranks), 7, MPI_COMM_WORLD, requests(1))
	call MPI_Isend(rank, 1, MPI_INTEGER, mod(rank + 1, ranks), 7, MPI_COMM_WORLD, requests(2))
	call MPI_Waitall(2, requests, MPI_STATUSES_IGNORE)
	sum = rank + 0.5d0
	call MPI_Allreduce(MPI_IN_PLACE, sum, 1, MPI_DOUBLE_PRECISION, MPI_SUM, MPI_COMM_WORLD)
	if (rank == 0) print '("ring of ", i0, ": left ", i0, ", sum ", f0.1)', ranks, left, sum
	call MPI_Finalize()
end program
