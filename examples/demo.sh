#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# demo: the same heat equation twice, unmoved and with its ranks moved while they compute; the answers are compared.
#
# Called by './quickstart demo' with the build directory in $top_builddir, the source in $top_srcdir and both mpirun and
# godwit in the PATH. DEMO_SECONDS is about how long each run takes.
set -u
seconds=${DEMO_SECONDS:-10} ranks=4 clusters=4 size=600
: "${top_srcdir:?is the source directory; run ./quickstart demo}" "${top_builddir:?is the build directory}"

if [ -t 1 ]; then
	bold=$(tput bold 2>/dev/null) dim=$(tput dim 2>/dev/null) plain=$(tput sgr0 2>/dev/null)
else
	bold='' dim='' plain=''
fi
head() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
die() {
	printf 'demo: %s\n' "$*" >&2
	exit 1
}

work=$(mktemp -d "${TMPDIR:-/tmp}/godwit-demo-XXXXXX") || exit 1
trap 'rm -rf "$work"' EXIT
export GODWIT_EVENTS=$work/events # says which job is ours, when others run too

# bar(done, all, text): one line that is drawn over and over on a terminal, and every tenth elsewhere
drawn=-1
bar() {
	local part=$(($1 * 40 / $2)) tenth=$(($1 * 10 / $2)) full=######################################## none
	none=........................................
	if [ -t 1 ]; then
		printf '\r  [%s%s] %3d%%  %s\033[K' "${full:0:part}" "${none:part}" $(($1 * 100 / $2)) "$3"
	elif [ $tenth -ne $drawn ]; then
		printf '  [%s%s] %3d%%  %s\n' "${full:0:part}" "${none:part}" $(($1 * 100 / $2)) "$3"
	fi
	drawn=$tenth
}
above() { [ ! -t 1 ] || printf '\r\033[K'; printf '%s\n' "$*"; } # a line that the bar does not draw over

# Ranks to move when the run has come so far: percent, rank, cluster.
plan=("15 1 3" "30 3 0" "45 2 1" "60 0 2" "75 1 0")

move() {
	local rank=$1 to=$2 answer from down job
	job=$(sed -n 's/.*"event":"job.started".*"job":"\([0-9a-f]*\)".*/\1/p' "$GODWIT_EVENTS" | tail -n 1)
	if ! answer=$(godwit migrate "$rank" --to "$to" --job "$job" --json 2> "$work/why"); then
		above "$answer"
		die "rank $rank could not be moved: $(cat "$work/why")"
	fi
	printf '%s\n' "$answer" >> "$work/moves.json"
	from=$(sed -n 's/ *"from": \([0-9]*\).*/\1/p' <<< "$answer")
	down=$(sed -n 's/ *"downtime_ns": \([0-9]*\).*/\1/p' <<< "$answer")
	above "  \$ godwit migrate $rank --to $to     ${dim}rank $rank left cluster $from, stopped for $((down / 1000000)).$((down / 100000 % 10)) ms$plain"
}

# run(name, move?, arguments...): runs jacobi, shows how far it is, keeps its last line in $work/name
run() {
	local name=$1 moves=$2 line next=0 percent
	shift 2
	drawn=-1
	while IFS= read -r line; do
		if [[ $line =~ iteration\ +([0-9]+)\ of\ ([0-9]+),\ residual\ ([^,]+) ]]; then
			percent=$((BASH_REMATCH[1] * 100 / BASH_REMATCH[2]))
			while [ "$moves" = yes ] && [ $next -lt ${#plan[@]} ] && [ $percent -ge "${plan[next]%% *}" ]; do
				# shellcheck disable=SC2086 # percent, rank, cluster
				set -- ${plan[next]}
				move "$2" "$3"
				next=$((next + 1))
			done
			[[ $line =~ iteration\ +([0-9]+)\ of\ ([0-9]+),\ residual\ ([^,]+) ]]
			bar "${BASH_REMATCH[1]}" "${BASH_REMATCH[2]}" "residual ${BASH_REMATCH[3]}"
		elif [[ $line == *checksum=* ]]; then
			printf '%s\n' "$line" > "$work/$name"
		else
			above "$line"
		fi
	done < <(mpirun -n $ranks -clusters $clusters "$work/jacobi" "${args[@]}"; echo "$?" > "$work/status")
	[ ! -t 1 ] || printf '\n'
	[ "$(cat "$work/status" 2>/dev/null)" = 0 ] || die "the $name run ended with status $(cat "$work/status")"
	[ -s "$work/$name" ] || die "the $name run gave no answer"
}

value() { sed -n "s/.* $2=\\([^ ]*\\).*/\\1/p" "$work/$1"; }

head "An ordinary MPI program: examples/jacobi.c, heat on a plate of $size x $size cells"
compile=(mpicc -O2 -ffp-contract=off -I"$top_srcdir" "$top_srcdir/examples/jacobi.c" -o "$work/jacobi" -lm)
echo "  \$ mpicc -O2 -ffp-contract=off jacobi.c -o jacobi -lm"
"${compile[@]}" || die "examples/jacobi.c does not compile"

head "1. Unmoved: $ranks ranks on $clusters clusters"
echo "  \$ mpirun -n $ranks -clusters $clusters ./jacobi"
args=(--size $size --seconds "$seconds" --report 250)
run unmoved no
printf '  checksum %s%s%s\n' "$bold" "$(value unmoved checksum)" "$plain"

head "2. The same, and ranks move between clusters while all of them compute"
echo "  \$ mpirun -n $ranks -clusters $clusters ./jacobi"
args=(--size $size --iterations "$(value unmoved iterations)" --report 250)
run moved yes
printf '  checksum %s%s%s\n' "$bold" "$(value moved checksum)" "$plain"

head "What each move took"
python3 - "$work/moves.json" <<'END' || die "the measures cannot be read"
import json, sys

text, answers, at = open(sys.argv[1]).read(), [], 0
decoder = json.JSONDecoder()
while text[at:].strip():
	at += len(text[at:]) - len(text[at:].lstrip())
	answer, at = decoder.raw_decode(text, at)
	answers += answer if isinstance(answer, list) else answer.get("moves", [answer])

def ms(m, name):
	return "%.1f" % (m[name] / 1e6) if m.get(name) is not None else "-"

print("  rank  from>to    total  prepare  downtime  resume   pages   dirty  slowed   link")
print("                      ms       ms        ms      ms    sent     /s       %    GB/s")
for a in answers:
	m = a["measures"]
	print("  %4d  %7s  %7s  %7s  %8s  %6s  %6d  %6s  %6s  %5s" % (a["rank"], "%d>%d" % (m["from"], m["to"]),
	      ms(m, "total_ns"), ms(m, "preparation_ns"), ms(m, "downtime_ns"), ms(m, "resume_ns"), m["pages"],
	      "-" if m["dirty_pages_s"] is None else "%.0f" % m["dirty_pages_s"],
	      "-" if m["degradation"] is None else "%.0f" % (100 * m["degradation"]),
	      "-" if m["link_bytes_s"] is None else "%.2f" % (m["link_bytes_s"] / 1e9)))
print("  slowed: share of the move during which the rank could not use MPI")
print("  dirty: pages written per second; stop-and-copy looks at memory only once")
END

head "Both answers, compared to the last bit"
printf '  unmoved  %s   %s s\n' "$(value unmoved checksum)" "$(value unmoved seconds)"
printf '  moved    %s   %s s\n' "$(value moved checksum)" "$(value moved seconds)"
if [ "$(value unmoved checksum)" = "$(value moved checksum)" ]; then
	printf '  %sequal%s\n\n' "$bold" "$plain"
else
	printf '  %sDIFFERENT%s\n\n' "$bold" "$plain"
	exit 1
fi
