! SPDX-License-Identifier: BSD-2-Clause
! Heat in a rod, Fortran 90: rows of cells shared out, borders exchanged, a sum now and then. The checksum is of all bits, so
! that it tells whether two runs had the same answer: heat STEPS
program heat
	use mpi
	implicit none
	integer, parameter :: cells = 6000
	integer :: rank, ranks, left, right, steps, step, i, err
	integer(8) :: mine, all
	double precision :: total, part
	double precision, allocatable :: u(:), v(:)
	character(len=32) :: word

	call MPI_Init(err)
	call MPI_Comm_rank(MPI_COMM_WORLD, rank, err)
	call MPI_Comm_size(MPI_COMM_WORLD, ranks, err)
	call get_command_argument(1, word)
	read (word, *) steps
	left = rank - 1
	if (left < 0) left = MPI_PROC_NULL
	right = rank + 1
	if (right == ranks) right = MPI_PROC_NULL
	allocate (u(0:cells + 1), v(0:cells + 1))
	do i = 0, cells + 1
		u(i) = sin(0.001d0 * (rank * cells + i)) + 1.0d0 / (i + 1)
	end do
	v = u
	if (rank == 0) then
		print '("heat starts")'
		flush (6)
	end if
	do step = 1, steps
		call MPI_Sendrecv(u(cells), 1, MPI_DOUBLE_PRECISION, right, 1, u(0), 1, MPI_DOUBLE_PRECISION, left, 1, &
			MPI_COMM_WORLD, MPI_STATUS_IGNORE, err)
		call MPI_Sendrecv(u(1), 1, MPI_DOUBLE_PRECISION, left, 2, u(cells + 1), 1, MPI_DOUBLE_PRECISION, right, 2, &
			MPI_COMM_WORLD, MPI_STATUS_IGNORE, err)
		do i = 1, cells
			v(i) = u(i) + 0.2d0 * (u(i - 1) - 2.0d0 * u(i) + u(i + 1))
		end do
		u(1:cells) = v(1:cells)
		if (mod(step, 100) == 0) then
			part = sum(u(1:cells))
			call MPI_Allreduce(part, total, 1, MPI_DOUBLE_PRECISION, MPI_SUM, MPI_COMM_WORLD, err)
			u(1) = u(1) + total * 1.0d-9
		end if
	end do
	mine = 0
	do i = 1, cells
		mine = ieor(ishftc(mine, 7), transfer(u(i), mine))
	end do
	call MPI_Reduce(mine, all, 1, MPI_INTEGER8, MPI_BXOR, 0, MPI_COMM_WORLD, err)
	if (rank == 0) print '("heat checksum=", z16.16, " sum=", es24.16)', all, total
	call MPI_Finalize(err)
end program
