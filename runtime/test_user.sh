# SPDX-License-Identifier: BSD-2-Clause
# runtime/test_user: the tests of launching, of moving and of continuing once more, as an ordinary user, when they are run by root.
#
# The build tree and MPICH may lie where other users cannot look, so what is needed is copied to a place of its own.
if [ "$(id -u)" != 0 ]; then
	echo "1..0 # SKIP this is an ordinary user already: the other tests show it"
	exit 0
fi
if ! setpriv --reuid=65534 --regid=65534 --clear-groups unshare --user --map-current-user true 2> /dev/null; then
	echo "1..0 # SKIP user namespaces are denied to ordinary users here"
	exit 0
fi
place=$(mktemp -d "${TMPDIR:-/tmp}/godwit-user-XXXXXX") || exit 1
trap 'rm -rf "$place"' EXIT
mkdir -p "$place"/build/.libs "$place"/build/tests/programs "$place"/lib "$place"/src/runtime "$place"/src/tests "$place"/tmp
cp "$top_builddir"/mpirun "$top_builddir"/godwitd "$top_builddir"/godwit "$place"/build/ &&
cp -L "$top_builddir"/.libs/libgodwit-fi.so "$place"/build/.libs/ &&
cp -r "$top_builddir"/.libs/abi "$place"/build/.libs/ &&
cp "$top_builddir"/tests/programs/conduct "$top_builddir"/tests/programs/held "$top_builddir"/tests/programs/mpiio \
	"$place"/build/tests/programs/ &&
cp -a "$MPICH_PREFIX"/lib/lib*.so* "$place"/lib/ &&
cp -r "$top_srcdir"/runtime/test_*.py "$top_srcdir"/runtime/completion "$place"/src/runtime/ &&
cp -r "$top_srcdir"/tests/driver "$place"/src/tests/ || exit 1
chmod -R a+rX "$place" && chmod 1777 "$place"/tmp
as_user() {
	(cd "$place"/tmp && setpriv --reuid=65534 --regid=65534 --clear-groups env HOME="$place"/tmp TMPDIR="$place"/tmp \
		GODWIT_MPICH="$place" top_builddir="$place"/build top_srcdir="$place"/src python3 "$@")
}
# Each part has numbers of its own: they are counted on here, and a part without a plan is a failure.
n=0
for part in runtime/test_launch.py tests/driver/launch.py tests/driver/move.py tests/driver/movable.py "tests/driver/restart.py --brief"; do
	has_plan=no
	while IFS= read -r line; do
		case $line in
		1..*) has_plan=yes ;;
		"ok "* | "not ok "*)
			n=$((n + 1))
			printf '%s %d - as a user: %s\n' "${line%% [0-9]*}" "$n" "${line#* - }"
			;;
		*) printf '%s\n' "$line" ;;
		esac
	done < <(as_user "$place/src/${part%% *}" ${part#"${part%% *}"} 2>&1)
	n=$((n + 1))
	if [ $has_plan = yes ]; then echo "ok $n - $part comes to its end"; else echo "not ok $n - $part comes to its end"; fi
done
echo "1..$n"
