/* SPDX-License-Identifier: BSD-2-Clause */
/* What all hosts of a job can do, and the variables by which libraries keep to that. */
#include "runtime/launcher/baseline.h"

#include <stdlib.h>

#include "runtime/launcher/head.h"

/* ---- variables --------------------------------------------------------------------------------------------------------- */

/* Is @names ("a,b") part of @c? */
static bool has_all(const struct ct_cpu *c, const char *names)
{
	struct ct_cpu wanted;

	return ct_cpu_parse(&wanted, names) == 0 && ct_cpu_is_none(ct_cpu_without(wanted, *c));
}

#define V4 "avx512f,avx512bw,avx512cd,avx512dq,avx512vl"
#define V3 "avx2,fma,bmi1,bmi2,f16c,abm,movbe"

/* The first row of a variable whose features are all there gives its value; without one it is not set. */
static const struct { const char *variable, *features, *value; } choices[] = {
	{ "OPENBLAS_CORETYPE", V4, "SkylakeX" },
	{ "OPENBLAS_CORETYPE", V3, "Haswell" },
	{ "OPENBLAS_CORETYPE", "avx", "Sandybridge" },
	{ "OPENBLAS_CORETYPE", "sse4_2", "Nehalem" },
	{ "OPENBLAS_CORETYPE", "ssse3", "Core2" },
	{ "OPENBLAS_CORETYPE", "", "Prescott" },
	{ "MKL_ENABLE_INSTRUCTIONS", V4, "AVX512" },
	{ "MKL_ENABLE_INSTRUCTIONS", V3, "AVX2" },
	{ "MKL_ENABLE_INSTRUCTIONS", "avx", "AVX" },
	{ "MKL_ENABLE_INSTRUCTIONS", "", "SSE4_2" },
	{ "ONEDNN_MAX_CPU_ISA", V4, "AVX512_CORE" },
	{ "ONEDNN_MAX_CPU_ISA", V3, "AVX2" },
	{ "ONEDNN_MAX_CPU_ISA", "avx", "AVX" },
	{ "ONEDNN_MAX_CPU_ISA", "", "SSE41" },
	{ "ATEN_CPU_CAPABILITY", V4, "avx512" },
	{ "ATEN_CPU_CAPABILITY", V3, "avx2" },
	{ "ATEN_CPU_CAPABILITY", "", "default" },
	{ "JSIMD_FORCESSE2", "avx2", NULL },
	{ "JSIMD_FORCESSE2", "", "1" },
};

/* numpy's names, and what they take. It may refuse to do without what it was built to need: nothing below AVX is named. */
static const struct { const char *name, *features; } numpy[] = {
	{ "AVX", "avx" }, { "F16C", "f16c" }, { "FMA3", "fma" }, { "FMA4", "fma4" }, { "XOP", "xop" }, { "AVX2", "avx2" },
	{ "X86_V3", V3 }, { "AVX512F", "avx512f" }, { "AVX512CD", "avx512cd" }, { "AVX512_SKX", V4 }, { "X86_V4", V4 },
	{ "AVX512_CLX", V4 ",avx512_vnni" }, { "AVX512_CNL", V4 ",avx512ifma,avx512vbmi" },
	{ "AVX512_ICL", V4 ",avx512_vbmi2,avx512_bitalg,avx512_vpopcntdq,avx512_vnni" }, { "AVX512_SPR", V4 ",avx512_fp16" },
};

/*
 * glibc 2.33 and later has one name for each; before, what may be used had a name of its own with _Usable behind it. Names
 * that a version does not know it ignores. AVX_Fast_Unaligned_Load is what chooses copies with AVX.
 */
static void glibc_list(char *out, size_t cap, const struct ct_cpu *baseline)
{
	size_t n, at = 0;
	const struct ct_cpu_row *rows = ct_cpu_rows(&n);

	out[0] = '\0';
	for (size_t i = 0; i < n; i++) {
		char word[64];

		if (!rows[i].glibc || ct_cpu_has(baseline, rows[i].name))
			continue;
		snprintf(word, sizeof(word), "-%s,", rows[i].glibc);
		if (strstr(out, word))
			continue;
		at += (size_t)snprintf(out + at, cap - at, "%s-%s_Usable,", word, rows[i].glibc);
	}
	if (!ct_cpu_has(baseline, "avx2"))
		at += (size_t)snprintf(out + at, cap - at, "-AVX_Fast_Unaligned_Load,");
	if (at)
		out[at - 1] = '\0';
}

/* NAME=VALUE words with ':' between them; @name gets @list after what it has, the others stay */
static int tunable_join(char **text, const char *name, const char *list)
{
	gw_autofree char *old = *text;
	size_t cap = strlen(old) + strlen(name) + strlen(list) + 8, len = strlen(name);
	char *out = calloc(1, cap);
	const char *had = "";
	int had_len = 0;

	*text = NULL;
	if (!out)
		return -ENOMEM;
	for (const char *at = old; *at;) {
		size_t n = strcspn(at, ":");

		if (strncmp(at, name, len) == 0 && at[len] == '=') { /* glibc takes the last one only */
			had = at + len + 1;
			had_len = (int)(n - len - 1);
		} else if (n) {
			snprintf(out + strlen(out), cap - strlen(out), "%.*s:", (int)n, at);
		}
		at += n + (at[n] == ':');
	}
	snprintf(out + strlen(out), cap - strlen(out), "%s=%.*s%s%s", name, had_len, had, had_len ? "," : "", list);
	*text = out;
	return 0;
}

static int set_glibc(struct strings *env, const struct ct_cpu *baseline)
{
	const char *old = env_find(env, "GLIBC_TUNABLES");
	gw_autofree char *text = strdup(old ? old : "");
	char list[2048];
	int code;

	glibc_list(list, sizeof(list), baseline);
	if (!text)
		return -ENOMEM;
	if (!list[0])
		return 0;
	code = tunable_join(&text, "glibc.cpu.hwcaps", list);
	if (code == 0)
		code = tunable_join(&text, "glibc.tune.hwcaps", list); /* as it was called before 2.29 */
	return code < 0 ? code : env_set(env, "GLIBC_TUNABLES", text);
}

/* OpenSSL takes bits away from what cpuid says: edx and ecx of leaf 1, ebx and ecx of leaf 7. */
static int set_openssl(struct strings *env, const struct ct_cpu *baseline)
{
	uint64_t off[2] = { 0, 0 };
	size_t n;
	const struct ct_cpu_row *rows = ct_cpu_rows(&n);
	char text[64];

	for (size_t i = 0; i < n; i++) {
		int low = rows[i].leaf == 1 ? 3 : 1;

		if ((rows[i].leaf != 1 && rows[i].leaf != 7) || rows[i].subleaf || (rows[i].reg != 2 && rows[i].reg != low) ||
		    ct_cpu_has(baseline, rows[i].name))
			continue;
		off[rows[i].leaf == 7] |= 1ull << (rows[i].bit + (rows[i].reg == 2 ? 32 : 0));
	}
	snprintf(text, sizeof(text), "~0x%llx:~0x%llx", (unsigned long long)off[0], (unsigned long long)off[1]);
	return off[0] | off[1] ? env_set(env, "OPENSSL_ia32cap", text) : 0;
}

int baseline_environment(struct strings *env, const struct ct_cpu *baseline)
{
	char text[CT_CPU_TEXT] = "";
	const char *done = "";
	int code = set_glibc(env, baseline);

	for (size_t i = 0; i < GW_ARRAY_LEN(choices) && code == 0; i++) {
		if (strcmp(done, choices[i].variable) == 0 || !has_all(baseline, choices[i].features))
			continue;
		done = choices[i].variable;
		if (choices[i].value && !env_find(env, done))
			code = env_set(env, done, choices[i].value);
	}
	for (size_t i = 0; i < GW_ARRAY_LEN(numpy); i++)
		if (!has_all(baseline, numpy[i].features))
			snprintf(text + strlen(text), sizeof(text) - strlen(text), "%s%s", text[0] ? " " : "", numpy[i].name);
	if (code == 0 && text[0] && !env_find(env, "NPY_DISABLE_CPU_FEATURES"))
		code = env_set(env, "NPY_DISABLE_CPU_FEATURES", text);
	if (code == 0 && !env_find(env, "OPENSSL_ia32cap"))
		code = set_openssl(env, baseline);
	return code < 0 ? code : env_set(env, BASELINE_VARIABLE, ct_cpu_print(baseline, text));
}

/* ---- the job ----------------------------------------------------------------------------------------------------------- */

/* All have come that will: what do they share? */
static void decide(struct head *h)
{
	const struct cluster *first = NULL;
	bool is_mixed = false;
	char text[CT_CPU_TEXT];

	for (uint32_t i = 0; i < h->n_clusters; i++) {
		const struct cluster *c = &h->clusters[i];

		if (c->state != CLUSTER_UP)
			continue;
		h->baseline = first ? ct_cpu_both(h->baseline, c->cpu) : c->cpu;
		first = first ? first : c;
		is_mixed |= memcmp(&first->cpu, &c->cpu, sizeof(c->cpu)) != 0;
	}
	h->is_baseline_known = true;
	h->has_baseline = first && h->spec->baseline != BASELINE_HOST && (is_mixed || h->spec->baseline == BASELINE_AUTO);
	if (!h->has_baseline || !h->spec->is_verbose)
		return;
	job_say(h, "mpirun: the ranks keep to the processor features that all hosts share: %s", ct_cpu_print(&h->baseline, text));
	for (uint32_t i = 0; i < h->n_clusters; i++) {
		struct ct_cpu more = ct_cpu_without(h->clusters[i].cpu, h->baseline);

		if (!ct_cpu_is_none(more) && (i == 0 || h->clusters[i].host != h->clusters[i - 1].host))
			job_say(h, "mpirun: host %s could do more: %s", h->hosts[h->clusters[i].host].name, ct_cpu_print(&more, text));
	}
}

static void look(struct head *h)
{
	if (h->is_baseline_known || h->is_ending)
		return;
	for (uint32_t i = 0; i < h->n_clusters; i++)
		if (h->clusters[i].state == CLUSTER_STARTING && !h->clusters[i].growth)
			return;
	decide(h);
	for (uint32_t i = 0; i < h->n_clusters; i++)
		if (h->clusters[i].state == CLUSTER_UP)
			clusters_launch(h, &h->clusters[i]);
}

void baseline_cluster_up(struct head *h, struct cluster *c)
{
	if (!h->is_baseline_known && (h->n_hosts == 1 || h->spec->baseline == BASELINE_HOST))
		decide(h); /* nobody else's processors matter */
	if (h->is_baseline_known)
		clusters_launch(h, c);
	else
		look(h);
}

void baseline_cluster_lost(struct head *h)
{
	look(h);
}
