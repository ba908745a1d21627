/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * count: how many instructions the provider takes for a small message, to be run under callgrind (doc/performance.md):
 *
 *	valgrind --tool=callgrind --toggle-collect=pairs mpi-shim/count
 *
 * One process sends to itself what MPI_Send and MPI_Recv of 8 bytes do: a receive is posted, the message is sent, and the
 * queue is read once. count_open is the same with the gate compiled out (CT_NO_GATE): the difference is what it costs that
 * a rank can be moved.
 */
#include "mpi-shim/test_shim.h"

#define PAIRS 1000

__attribute__((noipa)) static long pairs(int n)
{
	static struct fi_context2 context;
	struct fi_cq_tagged_entry c;
	uint64_t out = 1, in = 0;
	long bad = 0;

	for (int i = 0; i < n; i++) {
		bad += fi_trecv(ep, &in, sizeof(in), NULL, peers[ME], 5, 0, &context) != 0;
		bad += fi_tinjectdata(ep, &out, sizeof(out), 0, peers[ME], 5) != 0;
		bad += fi_cq_read(cq, &c, 1) != 1;
	}
	return bad;
}

int main(void)
{
	struct gw_error why = { 0 };
	long bad;
	int fd;

	tap_begin(60);
	fd = noc_segment_create(0, 2, 1, 1, &why);
	if (fd < 0)
		tap_bail("%s", why.text);
	open_all(fd, ME, mpich_hints());
	bad = pairs(PAIRS);
	is_int(bad, 0, "%d messages were sent and received", PAIRS);
	ok(close_all(), "everything closes");
	return tap_done();
}
