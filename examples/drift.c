/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * drift: particles in a whirl that a wind carries over a square, whose opposite edges are joined.
 *
 * The square is cut into blocks, one per rank, in a two-dimensional Cartesian grid; a rank moves the particles of its block. Most
 * particles are in the whirl, so the work is where that is: it wanders over the ranks. After each step a rank hands those
 * particles to its neighbours that have left its block: first to the left and the right, then up and down, so that one that
 * left over a corner takes two steps.
 *
 * Particles do not act on each other: where one is depends on where it began and on nothing else. So at the end a rank computes the
 * way of some of its particles anew, from their beginning, and compares every bit; and nobody may be missing. The checksum
 * depends on every bit of every place; neither moves nor the number of ranks change it.
 */
#include "examples/example.h"

static const char help[] =
	"Usage: drift [options]\n"
	"Particles in a whirl that drifts over a square: the work wanders from rank to rank.\n\n"
	"  -p, --particles N    how many (default 200000)\n"
	"  -i, --steps N        steps (default 200)\n"
	"  -d, --drift N        how far the whirl drifts in a step, in millionths of the square's side (default 5000)\n"
	"  -w, --work N         parts into which each step is cut: the work for a particle (default 8)\n"
	"  -r, --report N       tell time and load every N steps (default 20)\n"
	"  -l, --loads          with it, how many particles each rank has\n"
	"  -q, --quiet          only the last line\n"
	"  -h, --help           this text\n";

struct particle { uint64_t id; double x, y; };

struct block {          /* particles in it; grows */
	struct particle *v;
	long n, room;
};

#define IN_WHIRL 3      /* of 4 particles */
#define RADIUS   0.22   /* of the whirl */
#define SPIN     0.06   /* radians a step, at its centre */
#define CHECKED  997    /* one of so many particles is computed anew at the end */

static double wind_x, wind_y; /* a step; y's is not in proportion to x's, so that the whirl comes by everywhere */
static double part;           /* of a step: 1 / --work */

/* ---- the flow ----------------------------------------------------------------------------------------------------------- */

/* Products, sums and whole parts only: the same bits on every machine, which sin() and exp() need not have. */
static double wrap(double a)
{
	return a - floor(a);
}

/* Velocity at (@x, @y) at time @t: the wind, and a rotation about the centre that fades to nothing at RADIUS. */
static void flow(double t, double x, double y, double *u, double *v)
{
	double dx = wrap(x - (0.2 + wind_x * t) + 0.5) - 0.5, dy = wrap(y - (0.5 + wind_y * t) + 0.5) - 0.5;
	double far = (dx * dx + dy * dy) / (RADIUS * RADIUS), spin = far < 1 ? SPIN * (1 - far) * (1 - far) : 0;

	*u = wind_x - spin * dy;
	*v = wind_y + spin * dx;
}

/* One step, by the classical method of Runge and Kutta in --work parts */
static void advance(struct particle *p, long step, long work)
{
	for (long k = 0; k < work; k++) {
		double t = (double)step + (double)k * part, h = part, u[4], v[4];

		flow(t, p->x, p->y, &u[0], &v[0]);
		flow(t + h / 2, p->x + h / 2 * u[0], p->y + h / 2 * v[0], &u[1], &v[1]);
		flow(t + h / 2, p->x + h / 2 * u[1], p->y + h / 2 * v[1], &u[2], &v[2]);
		flow(t + h, p->x + h * u[2], p->y + h * v[2], &u[3], &v[3]);
		p->x = wrap(p->x + h / 6 * (u[0] + 2 * u[1] + 2 * u[2] + u[3]));
		p->y = wrap(p->y + h / 6 * (v[0] + 2 * v[1] + 2 * v[2] + v[3]));
		if (p->x >= 1) /* a tiny negative number, wrapped, rounds to 1 */
			p->x = 0;
		if (p->y >= 1)
			p->y = 0;
	}
}

/* Where a particle begins. In the whirl they are the denser the nearer to its centre. */
static struct particle begin(uint64_t id)
{
	struct particle p = { .id = id };
	double a[4];

	for (uint64_t i = 0; i < 4; i++)
		a[i] = (double)(ex_mix(4 * id + i + 0x9e3779b97f4a7c15ULL) >> 11) / 9007199254740992.0;
	if (id % 4 < IN_WHIRL) { /* the mean of two is where both are likely to be */
		p.x = wrap(0.2 + 0.75 * RADIUS * (a[0] + a[1] - 1));
		p.y = wrap(0.5 + 0.75 * RADIUS * (a[2] + a[3] - 1));
	} else {
		p.x = a[0];
		p.y = a[1];
	}
	return p;
}

/* ---- blocks ------------------------------------------------------------------------------------------------------------- */

static void reserve(struct block *b, long n)
{
	long room = 2 * n + 64;

	if (n <= b->room)
		return;
	b->v = realloc(b->v, (size_t)room * sizeof(*b->v));
	if (!b->v) {
		fprintf(stderr, "rank %d: no memory for %ld particles; choose fewer\n", rank, room);
		MPI_Abort(MPI_COMM_WORLD, 3);
	}
	b->room = room;
}

static void add(struct block *b, struct particle p)
{
	reserve(b, b->n + 1);
	b->v[b->n++] = p;
}

/* What goes out of @mine to @to, for what comes from @from */
static void hand_over(struct block *mine, struct block *out, int to, int from, MPI_Comm grid)
{
	long coming;

	MPI_Sendrecv(&out->n, 1, MPI_LONG, to, 0, &coming, 1, MPI_LONG, from, 0, grid, MPI_STATUS_IGNORE);
	reserve(mine, mine->n + coming);
	MPI_Sendrecv(out->v, (int)(out->n * (long)sizeof(*out->v)), MPI_BYTE, to, 1, mine->v + mine->n,
	             (int)(coming * (long)sizeof(*mine->v)), MPI_BYTE, from, 1, grid, MPI_STATUS_IGNORE);
	mine->n += coming;
	out->n = 0;
}

/* Along one dimension, of @cells blocks of which this is number @at: those that are not in it any more go to the neighbours. */
static void sort_out(struct block *mine, int dimension, int cells, int at, MPI_Comm grid)
{
	static struct block next, last;
	long kept = 0;
	int below, above;

	if (cells == 1)
		return;
	MPI_Cart_shift(grid, dimension, 1, &below, &above);
	for (long i = 0; i < mine->n; i++) {
		struct particle p = mine->v[i];
		int there = (int)((dimension == 0 ? p.x : p.y) * cells), ahead = (there - at + cells) % cells;

		if (ahead == 0)
			mine->v[kept++] = p;
		else
			add(ahead == 1 ? &next : &last, p); /* nothing goes further in a step: main() sees to that */
	}
	mine->n = kept;
	hand_over(mine, &next, above, below, grid);
	hand_over(mine, &last, below, above, grid);
}

/* ---- the answer --------------------------------------------------------------------------------------------------------- */

/* Is each of a few particles where it is when nobody else has had it in between? */
static long count_wrong(const struct block *mine, long steps, long work)
{
	long wrong = 0;

	for (long i = 0; i < mine->n; i++) {
		struct particle p = begin(mine->v[i].id);

		if (p.id % CHECKED)
			continue;
		for (long step = 0; step < steps; step++)
			advance(&p, step, work);
		wrong += memcmp(&p, &mine->v[i], sizeof(p)) != 0;
	}
	return wrong;
}

static void tell(const struct block *mine, long step, long steps, double step_s, double all_s, int is_listed)
{
	long most, *counts = ex_alloc((size_t)ranks, sizeof(*counts)), sum = 0;

	MPI_Gather(&mine->n, 1, MPI_LONG, counts, 1, MPI_LONG, 0, MPI_COMM_WORLD);
	most = 0;
	for (int r = 0; r < ranks; r++) {
		sum += counts[r];
		most = counts[r] > most ? counts[r] : most;
	}
	if (rank == 0) {
		printf("drift: step %5ld of %ld, %8.2f ms a step, the busiest rank has %.2f times the mean, %6.2f s\n", step, steps,
		       1000 * step_s, sum ? (double)most * ranks / (double)sum : 1.0, all_s);
		if (is_listed) {
			printf("drift: loads at step %ld:", step);
			for (int r = 0; r < ranks; r++)
				printf(" %ld", counts[r]);
			printf("\n");
		}
		fflush(stdout);
	}
	free(counts);
}

int main(int argc, char **argv)
{
	static const struct option longs[] = {
		{ "particles", 1, NULL, 'p' }, { "steps", 1, NULL, 'i' }, { "drift", 1, NULL, 'd' }, { "work", 1, NULL, 'w' },
		{ "report", 1, NULL, 'r' },    { "loads", 0, NULL, 'l' }, { "quiet", 0, NULL, 'q' }, { "help", 0, NULL, 'h' }, { 0 } };
	long particles = 200000, steps = 200, speed = 5000, work = 8, report = 20, quiet = 0, loads = 0, wrong, found;
	int dims[2] = { 0, 0 }, periods[2] = { 1, 1 }, at[2], opt;
	struct block mine = { 0 };
	double start, told;
	uint64_t sum = 0;
	MPI_Comm grid;

	MPI_Init(&argc, &argv);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	MPI_Comm_size(MPI_COMM_WORLD, &ranks);
	opterr = 0;
	while ((opt = getopt_long(argc, argv, "p:i:d:w:r:lqh", longs, NULL)) != -1) {
		switch (opt) {
		case 'p': particles = ex_number("drift", "--particles", optarg, 0, 50000000); break;
		case 'i': steps = ex_number("drift", "--steps", optarg, 0, 1000000000); break;
		case 'd': speed = ex_number("drift", "--drift", optarg, 0, 100000); break;
		case 'w': work = ex_number("drift", "--work", optarg, 1, 100000); break;
		case 'r': report = ex_number("drift", "--report", optarg, 1, 1000000000); break;
		case 'l': loads = 1; break;
		case 'q': quiet = 1; break;
		case 'h': ex_help(help); break;
		default: ex_refuse("drift: bad option '%s'; see --help", argv[optind - 1]);
		}
	}
	if (optind < argc)
		ex_refuse("drift: unexpected argument '%s'; see --help", argv[optind]);
	MPI_Dims_create(ranks, 2, dims);
	wind_x = (double)speed / 1e6;
	wind_y = wind_x * 0.381966;
	part = 1.0 / (double)work;
	if ((wind_x + SPIN * RADIUS) * dims[0] > 1)
		ex_refuse("drift: particles would leave blocks that are 1/%d wide by more than one in a step; choose a smaller --drift, or "
		          "fewer ranks", dims[0]);
	MPI_Cart_create(MPI_COMM_WORLD, 2, dims, periods, 0, &grid);
	MPI_Cart_coords(grid, rank, 2, at);
	for (long id = 0; id < particles; id++) { /* everybody knows where all begin */
		struct particle p = begin((uint64_t)id);

		if ((int)(p.x * dims[0]) == at[0] && (int)(p.y * dims[1]) == at[1])
			add(&mine, p);
	}

	start = told = MPI_Wtime();
	for (long step = 0; step < steps; step++) {
		for (long i = 0; i < mine.n; i++)
			advance(&mine.v[i], step, work);
		sort_out(&mine, 0, dims[0], at[0], grid);
		sort_out(&mine, 1, dims[1], at[1], grid);
		if (!quiet && ((step + 1) % report == 0 || step + 1 == steps)) {
			double now = MPI_Wtime();

			tell(&mine, step + 1, steps, (now - told) / (double)(step % report + 1), now - start, loads);
			told = MPI_Wtime();
		}
	}

	wrong = count_wrong(&mine, steps, work);
	for (long i = 0; i < mine.n; i++)
		sum += ex_sum_double(2 * mine.v[i].id, mine.v[i].x) + ex_sum_double(2 * mine.v[i].id + 1, mine.v[i].y);
	sum = ex_sum_all(sum);
	MPI_Allreduce(MPI_IN_PLACE, &wrong, 1, MPI_LONG, MPI_SUM, MPI_COMM_WORLD);
	MPI_Allreduce(&mine.n, &found, 1, MPI_LONG, MPI_SUM, MPI_COMM_WORLD);
	if (rank == 0 && (wrong || found != particles))
		fprintf(stderr, "drift: the answer is wrong: %ld of %ld particles are there, and %ld of those looked at are not where "
		        "they should be\n", found, particles, wrong);
	if (rank == 0)
		printf("drift: particles=%ld steps=%ld ranks=%d seconds=%.3f checksum=%016llx\n", particles, steps, ranks,
		       MPI_Wtime() - start, (unsigned long long)sum);
	free(mine.v);
	MPI_Comm_free(&grid);
	MPI_Finalize();
	return wrong || found != particles;
}
