// SPDX-License-Identifier: BSD-2-Clause
// The ring in C++, through the bindings (libmpicxx, Debian's libmpichcxx) that MPI has dropped and programs still use.
#include <mpi.h>
#include <cstdio>
#include <stdexcept>

int main(int argc, char **argv)
{
	MPI::Init(argc, argv);
	MPI::Intracomm comm = MPI::COMM_WORLD.Dup();
	int rank = comm.Get_rank(), ranks = comm.Get_size(), left;
	double one = rank + 0.5, sum;

	comm.Sendrecv(&rank, 1, MPI::INT, (rank + 1) % ranks, 7, &left, 1, MPI::INT, (rank + ranks - 1) % ranks, 7);
	comm.Allreduce(&one, &sum, 1, MPI::DOUBLE, MPI::SUM);
	comm.Set_errhandler(MPI::ERRORS_THROW_EXCEPTIONS);
	try {
		comm.Send(&rank, 1, MPI::INT, ranks, 7);
		std::puts("a bad rank threw nothing");
	} catch (MPI::Exception &e) {
		if (rank == 0 && e.Get_error_class() == MPI::ERR_RANK)
			std::printf("ring of %d: left %d, sum %.1f\n", ranks, left, sum);
	}
	comm.Free();
	MPI::Finalize();
	return 0;
}
