! SPDX-License-Identifier: BSD-2-Clause
! moments [CLUSTERS]: the example moments.c in Fortran: what a program can say to the runtime that moves it, and ask of it.
module hooks
  implicit none
  include 'godwitf.h'
  integer, volatile :: befores = 0, afters = 0
contains
  subroutine before(why, answer)
    integer, intent(in) :: why
    integer, intent(out) :: answer
    if (why == MPIX_MOVE) befores = befores + 1
    answer = 0 ! anything else refuses the move
  end subroutine
  subroutine after(outcome)
    integer, intent(in) :: outcome
    if (outcome == MPIX_MOVED) afters = afters + 1
  end subroutine
end module

program moments
  use mpi
  use hooks
  implicit none
  integer :: rank, ranks, ierror, round, cluster, host, moves, clusters
  logical :: movable, moved
  character(len=200) :: why
  character(len=8) :: next
  integer(kind=8) :: x, total

  clusters = 2
  if (command_argument_count() > 0) then
    call get_command_argument(1, next)
    read (next, *) clusters
  end if
  call MPI_Init(ierror)
  call MPI_Comm_rank(MPI_COMM_WORLD, rank, ierror)
  call MPI_Comm_size(MPI_COMM_WORLD, ranks, ierror)
  call MPIX_Migratable(movable, ierror)
  call MPIX_On_move(before, after, ierror)
  call MPIX_Load(1.0d0, ierror)
  x = rank + 1
  do round = 0, 9
    x = mod(x * 48271_8, 2147483647_8)
    call MPIX_Moment(moved, ierror)
    if (movable .and. clusters > 1 .and. mod(round, 5) == 0) then
      call MPIX_Where(cluster, host, moves, ierror)
      write (next, '(i0)') mod(cluster + 1, clusters)
      call MPIX_Migrate(next, 0, moved, ierror)
      call MPIX_Why(why, ierror)
      if (.not. moved) print '(a,i0,2a)', 'rank ', rank, ' stays: ', trim(why)
    end if
  end do
  call MPIX_Pin(ierror)
  call MPIX_Unpin(ierror)
  call MPIX_Where(cluster, host, moves, ierror)
  call MPI_Reduce(x, total, 1, MPI_INTEGER8, MPI_SUM, 0, MPI_COMM_WORLD, ierror)
  if (movable) print '(a,i0,a,i0,a,i0,a,i0)', 'rank ', rank, ' moves ', moves, ' before ', befores, ' after ', afters
  if (rank == 0) print '(a,i0)', 'moments: checksum=', total
  call MPI_Finalize(ierror)
end program
