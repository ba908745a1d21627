! SPDX-License-Identifier: BSD-2-Clause
! godwitf.h: the calls of godwit.h for Fortran, for fixed and free form. godwit.h says what they do.
!
!   call MPIX_Migratable(flag, ierror)                 logical flag
!   call MPIX_Where(cluster, host, moves, ierror)      integers
!   call MPIX_Migrate(where, timeout_ms, moved, ierror)  character(*) where, ' ': anywhere; logical moved
!   call MPIX_Why(sentence, ierror)                    character(*) sentence
!   call MPIX_Pin(ierror)
!   call MPIX_Unpin(ierror)
!   call MPIX_Load(processors, ierror)                 double precision processors
!   call MPIX_Moment(moved, ierror)                    logical moved
!   call MPIX_On_move(before, after, ierror)
!     subroutine before(why, answer)                   integers; answer 0, or refuse
!     subroutine after(outcome)                        integer
      integer MPIX_MOVE, MPIX_REST
      integer MPIX_MOVED, MPIX_STAYED, MPIX_RESTARTED
      parameter (MPIX_MOVE = 1, MPIX_REST = 2)
      parameter (MPIX_MOVED = 1, MPIX_STAYED = 2, MPIX_RESTARTED = 3)
      external MPIX_Migratable, MPIX_Where, MPIX_Migrate, MPIX_Why
      external MPIX_Pin, MPIX_Unpin, MPIX_Load, MPIX_Moment
      external MPIX_On_move
