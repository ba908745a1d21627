#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# hosts.sh: keeps the namespaces of one host rig; started by driver/rig.py, never by hand. doc/rig.md draws it.
#
# keeper DIR  runs outside, ends when everything inside has ended, and then removes what outlives a process: the
#             directory and the control groups. It ignores signals: closing its standard input is what ends a rig.
# wire DIR    first process of the outer namespaces: the bridge, and the parent of every host. Reads "host NUMBER" from
#             standard input; the end of input is the end of the rig, however its owner died.
# host DIR N  first process of a host: makes the host, then waits and reaps. Killing it is pulling the plug.
#
# What happened is said on standard output, one line each: "wire PID", "up N PID", "failed N"; why, on standard error.
# PIDs are as the owner sees them: until a host mounts its own, /proc is still the owner's.
set -u
verb=$1 dir=$2

case $verb in
keeper)
	trap '' INT TERM HUP QUIT
	# shellcheck disable=SC2086
	unshare $RIG_USERNS --net --uts --ipc --mount --pid --fork --kill-child --propagation private -- \
		bash "$0" wire "$dir"
	status=$?
	rm -rf --one-file-system -- "$dir"
	if [ -n "$RIG_CGROUP" ]; then
		for group in /sys/fs/cgroup/"$RIG_CGROUP" /sys/fs/cgroup/*/"$RIG_CGROUP"; do
			[ ! -d "$group" ] || find "$group" -depth -type d -exec rmdir -- {} \;
		done
	fi
	exit $status
	;;
wire)
	read -r pid _ < /proc/self/stat
	ip -batch - <<-END || exit 1
		link set lo up
		link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0
		link set br0 up
	END
	echo "wire $pid"
	while read -r what n; do
		[ "$what" = host ] || continue
		options=RIG_UNSHARE_$n
		(
			# A host's own group is the root of what the host sees, so that nobody climbs out of it.
			for procs in /sys/fs/cgroup/{,*/}"${RIG_CGROUP:-none}/$RIG_PREFIX$n"/cgroup.procs; do
				[ ! -e "$procs" ] || echo "$BASHPID" > "$procs"
			done
			# shellcheck disable=SC2086
			exec unshare --net --uts --ipc --mount --pid --fork --kill-child --propagation private \
				${RIG_CGROUP:+--cgroup} ${!options:-} -- bash "$0" host "$dir" "$n" "$pid"
		) < /dev/null &
	done
	;;
host)
	n=$3 wire=$4 mine=$dir/hosts/$RIG_PREFIX$3
	read -r pid _ < /proc/self/stat
	trap 'echo "failed $n"' EXIT
	set -e
	hostname "$RIG_PREFIX$n"
	# Addresses of the hardware are fixed: a host that comes back is not a stranger to its neighbours' tables.
	ip -batch - <<-END
		link set lo up
		link add eth0 address 02:00:c6:33:64:$(printf %02x "$n") type veth peer name h$n netns /proc/$wire/ns/net
		addr add $RIG_NETWORK.$n/24 dev eth0
		link set eth0 up
	END
	nsenter --target "$wire" --net ip link set "h$n" master br0 up
	for f in /proc/sys/net/ipv6/conf/{all,default}/disable_ipv6; do
		[ ! -w "$f" ] || echo 1 > "$f"
	done
	# All at once: one line each in the host's own table. Order matters; what the machine lacks is not in it.
	mount --all --fstab "$mine/fstab"
	exec 9<> "$dir/never"
	trap - EXIT
	set +e
	echo "up $n $pid"
	exec > /dev/null 2>&1
	trap '' INT TERM HUP QUIT
	# Nobody writes there. bash reaps every orphan that ends meanwhile.
	while :; do read -r _ <&9; done
	;;
esac
