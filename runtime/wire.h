/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * runtime/wire.h: what the head (mpirun), the clusterds (godwitd) and the tools (godwit) say to each other.
 *
 * Everything goes over links (runtime/base/link.h). Most of it is JSON frames {"op": NAME, ...} with the names and
 * fields below; bytes of standard streams and the words of a launch, which need not be UTF-8, are frames of their own.
 * Sockets: head "godwit/<uid>/<job>/head", clusterd i "godwit/<uid>/<job>/<i>" (abstract AF_UNIX; <job> in 8 hex
 * digits). The head's link to each clusterd of its machine is a socket pair made before exec (godwitd --head-fd); those of
 * other machines come by TCP (godwitd --join) and know secret and address themselves.
 *
 * head -> clusterd
 *   daemon        cluster address port        where the daemon of another host listens for migration sessions (TCP)
 *   name          as from a clusterd: of another host; to be written into this host's name page. Of a process of another job under its
 *                 number here, cluster and host -1
 *   guests        index job index_there secret (other machines: sealed) guests[]: [number process]  processes of that job, and the numbers that they have here;
 *                 repeated for those that come later. The jobs' numbers among each other's friends; their secret (hex)
 *   start         cluster domain job size room kvsname universe incarnation cores[] binds[[]] reconnecting[] restarting
 *                 (descriptor: the host segment; without one the clusterd makes it)
 *                 size: ranks of the first world; room: names that segments are made for
 *                 binds: sets of processors, one for each rank; none when a rank may use all of the cluster's
 *                 host hostname: in jobs of several hosts; there clusterds of the head's machine also get address and secret (hex)
 *                 inherit{}: environment{} limits[] umask nice ioprio; of mpirun, for clusterds of other hosts
 *                 cut{}: index count bind map; for clusterds of other hosts, which find cores and binds out themselves, and
 *                 number their core domains from @domain on
 *   signal        rank signal                 to its process group; answered by undelivered when the rank does not live
 *                                             there. SIGTSTP stops it, and is answered by signalled
 *   end                                       SIGKILL to every rank that is left, and exit 0
 *   world         first size kvsname universe puts{}  ranks that were spawned: the next @size process numbers, from @first on
 *   barrier-done  world number puts{}         all ranks of that world have entered PMI barrier @number
 *   pmi-answer    rank id answer{}
 *   stdin-eof     rank offset                 standard input ends at @offset
 *   output-ack    rank stream offset          the head has written all up to @offset
 *   migrate       id rank to timeout_ms carry technique max_downtime_us bandwidth max_slowdown plain moment_ms
 *                                             answered by migrate-done; @carry: files may travel with it; technique: auto,
 *                                             stop-and-copy, pre-copy, post-copy, hybrid; bandwidth: bytes a second; max_slowdown: thousandths;
 *                                             plain: nothing is packed; moment_ms: so long a good moment of its program is waited for; all but carry optional
 *   wished        rank id status text         the answer to wish
 *   cancel        id                          the request @id is taken back, unless its move has begun
 *   cluster-lost  cluster incarnation         the head's verdict: that daemon is dead, for good
 *   cluster-left  cluster                     that daemon has left in order: nothing is to be sent to it any more
 *   network       host address secret         the job gets a second host: take up the network; answered by networked
 *   share         cluster                     hand this host's segment to that clusterd, which has come to it
 *   suspend       id                          bring the ranks to rest; answered by suspend-quiet
 *   suspend-stop  id                          stop them: those of all daemons are quiet; answered by suspended
 *   checkpoint    id dir                      instead: freeze them and write their images to @dir; answered by checkpointed
 *   resume                                    they go on, whatever state they were in
 *   restart       dir elapsed_ns names[]: [cluster host epoch ended] files[]: path ino length; ranks[]: rank name hash size epoch passed_ns
 *                                             instead of launches: make these ranks of their images in @dir, which this host may not
 *                                             see; answered by restored for each. elapsed_ns: their clocks go on since then; passed_ns:
 *                                             and had gone on since the image says
 *   restart-cut                               all ranks of the job are there: cut files; answered by restart-cut
 *   restart-go                                let them run: answered by launched and moved for each
 *   leave                                     nothing lives here and nothing is on its way: answered by left
 *   status        id movable                  answered by status-answer
 *   measure       id traffic                  answered by measured
 *
 * clusterd -> head
 *   up            pid place{} address port room  room: names that the segment has; place: cores[] binds[[]], and of a cut host domains[]; address and port: for sessions of daemons of other hosts
 *                                             (descriptor: the segment, if this clusterd made it)
 *                                             cpu: what its processor can do, names of container/cpu.h
 *   launched      rank pid slot            @slot: of binds; -1: it is not bound
 *   launch-failed rank code text
 *   name          rank state epoch incarnation cluster host address (hex)
 *                                             of a rank that it owns; jobs of several hosts only
 *   exited        rank status phase           it has been reaped, its output has been sent; status as from waitpid
 *   moved         rank epoch pid stdin        the sender owns it (now, or still: the move failed); @stdin: how far standard
 *                                             input has been written to it; the head goes on from there
 *   given         rank to epoch               the sender does not own it any more: it went to that cluster at @epoch
 *   barrier       rank number puts{}          the rank entered PMI barrier @number
 *   pmi-ask       rank id what args{}         publish, lookup, unpublish, spawn
 *   abort         rank code text              PMI abort
 *   broken        rank text                   not PMI-1, or another MPI than ours speaks there
 *   stdin-ack     rank offset                 written to the rank's pipe
 *   stdin-closed  rank                        the program has closed it: nobody reads more
 *   undelivered   rank signal                 it does not live here (any more): the head follows it
 *   signalled     rank signal                 SIGTSTP has been delivered
 *   notice                                    its host goes away, a SIGPWR to the clusterd has said
 *   told          signal                      Slurm has sent it to the clusterd, as to a task of the job: it is for the ranks
 *   lost          rank to text                it was given to a cluster that died
 *   starved       rank text                   pages of it that a cluster had will never come (post-copy): it was ended
 *   attach-failed rank text                   its agent could not attach after a move, and not later either
 *   cluster-lost-ack cluster                  every `moved` and `given` of a rank there has been sent before this
 *   migrate-done  id rank status text measures{}
 *   wish          rank id what where timeout_ms its program asks (godwit.h): what: move, pin, unpin, meet (a process of another job); answered by wished. A rank that
 *                                             has moved repeats it
 *   status-answer id ranks[] sessions[] cluster busy_ns daemon_ns now_ns room quota
 *   measured      id ranks[]: rank cluster pid epoch state load cpu_ns waited_ns memory sent_bytes received_bytes traffic_ns traffic[]: [peer
 *                                             bytes messages]; sessions[] cluster busy_ns daemon_ns now_ns room quota (cores that a control group allows; left out: all)
 *                                             since each began, wherever it was; load: as its program says; traffic as the agent said when it was asked last
 *   networked     address port text           as with up, when all ranks here have a network; @text: why that cannot be
 *   suspend-quiet id                          no rank here is in MPI any more, nor will be
 *   suspended     id                          all ranks here are stopped
 *   checkpointed  id images[] status text     images: rank name bytes size hash real_ns files[], on the disk; @text: why not
 *   image-ask     rank offset bytes           of the file with its image; answered by a frame RT_FRAME_IMAGE
 *   restored      rank                        it is ready to run
 *   restore-failed rank text                  it cannot be made; nothing more will be here
 *   restart-cut   rank text                   files are as they were; @text: why not, for @rank
 *   left                                      the last word: the clusterd ends, its job goes on
 *   unreachable   cluster text                its host has not answered for seconds; told once until it answers again
 *   fatal         text                        the clusterd ends for this reason
 *
 * tool -> head, and its answers
 *   status        movable use traffic      -> status: job{} clusters[] ranks[] sessions[] moves{} balance{}: doc/monitoring.md. With @movable each
 *                                             rank has movable: state ("yes", "no", "waits", "moving") reasons[]: kind number text, and
 *                                             what is predicted; @use: what measure tells is enough; @traffic: with whom ranks talk, too
 *   pin           ranks[] pinned           -> pinned: ranks[] pinned changed[] (or refused: text)
 *   migrate       ranks[] to timeout_ms carry technique max_downtime_us bandwidth max_slowdown
 *                                             to: a cluster's number, or a host's name; the rest: as to a clusterd
 *                                          -> migrated: rank to status text measures{} (one for each), then done: failed
 *                                             (or refused: text, before anything was begun)
 *   add           hosts[]: name clusters; launcher
 *                                          -> added: host clusters[] status text (one for each host), then done: failed
 *                                             (or refused). launcher: "ssh", "fork", words with %h; left out: the job's.
 *                                             When added comes, ranks can be moved there
 *   drain         targets[] timeout_ms     -> drained: clusters[] status moved stuck[]: rank text; then done: failed (or
 *                                             refused: nothing was begun). targets: numbers of clusters, names of hosts.
 *                                             status: 0; -EBUSY: ranks in @stuck are still there. The clusters stay drained
 *   remove        targets[] timeout_ms     -> removed: as drained; status besides: -ETIMEDOUT: empty, but still leaving.
 *                                             When it comes with 0, daemons and launchers there have ended
 *   suspend                                -> suspended: status text ranks ms again; status: 0, -ECANCELED when it was resumed before it was
 *                                             complete. again: it was suspended already (or refused: status text)
 *   checkpoint    dir stop                 -> checkpointed: status text dir checkpoint ranks bytes size ms (or refused: status text); @stop: then the job ends
 *   resume                                 -> resumed: status text ranks again; again: it was not suspended (or refused: status text)
 *   rebalance     strategy dry_run snapshot -> rebalanced: status text; snapshot{} strategy words dry_run peak peak_planned peak_bound far_bytes_s
 *                                             far_bytes_s_planned gain_s cost_s horizon_s moves[]: rank from to gain_s, and, when they
 *                                             were made, status text (or refused: status text)
 *   undrain       targets[]                -> undrained: clusters[] (or refused)
 *                                             When the tool goes: an add goes on, suspending too; a drain begins no further move
 *   lookup        service                  -> found: port, if this job has published one; asked by the mpirun of another job
 *   meet          job index secret address -> met: index address (or refused); the mpirun of another job, for good; from another machine salt
 *                                             for secret, and nothing but this and lookup can be asked: then each says name,
 *                                             told, asks for one: ask, absent, and at its end says bye: failed (runtime/launcher/guests.c)
 */
#ifndef RT_WIRE_H
#define RT_WIRE_H

#include <sched.h>
#include <stdint.h>

#include "runtime/base/link.h"

#define RT_SOCKET_NAME_MAX 64

/* Clusters of a job in all its life: numbers are not used again. Hosts and core domains likewise. Each costs a few hundred
 * bytes of addresses in the head and in each host segment, and no memory until it is there. */
#define RT_CLUSTERS_MAX 4096

enum rt_stream { RT_STDIN = 0, RT_STDOUT = 1, RT_STDERR = 2, RT_STREAMS = 3 };

enum rt_frame { /* written numbers; GW_FRAME_JSON is 1 */
	RT_FRAME_OUTPUT = 2,  /* clusterd -> head: struct rt_piece, bytes */
	RT_FRAME_INPUT  = 3,  /* head -> clusterd: struct rt_piece, bytes of standard input */
	RT_FRAME_IMAGE  = 5,  /* head -> clusterd: struct rt_piece, bytes of the file with the image of that rank */
	RT_FRAME_LAUNCH = 4,  /* head -> clusterd: struct rt_launch, then strings, each with its NUL: cwd, argv, envp */
};

struct rt_piece {        /* bytes of one stream of one rank; @offset counts from the rank's start, over all moves */
	uint32_t rank, stream;
	uint64_t offset;
};
_Static_assert(sizeof(struct rt_piece) == 16, "wire format");

struct rt_launch {       /* one rank; PMI_RANK and its kin are added by the clusterd */
	uint32_t rank, ns_pid;
	uint32_t has_stdin;  /* 1: a pipe fed by the head; 0: /dev/null */
	uint32_t argc, envc, appnum;
};
_Static_assert(sizeof(struct rt_launch) == 24, "wire format");

#define RT_OUTPUT_WINDOW (256u << 10) /* bytes of a stream that a clusterd sends ahead of output-ack */
#define RT_INPUT_WINDOW  (128u << 10) /* bytes of stdin that the head sends ahead of stdin-ack */
#define RT_PIECE_MAX     (64u << 10)

/** rt_socket_name - of the head (@cluster < 0) or a clusterd of @job of this user */
void rt_socket_name(char buf[RT_SOCKET_NAME_MAX], uint32_t job, int cluster);

/** rt_cpus_json, rt_cpus_read - a set of processors as the list of their numbers; what is not one is left out */
json_t *rt_cpus_json(const cpu_set_t *cpus);
void rt_cpus_read(const json_t *list, cpu_set_t *cpus);

/** rt_end_describe - of a process: "[was ]killed by signal 9 (Killed)" or "exited with status 3". Return @buf */
const char *rt_end_describe(int wait_status, bool is_sentence, char *buf, size_t cap);

/** rt_jobs_find - jobs of this user whose head listens, from /proc/net/unix. Return their number, at most @max filled */
int rt_jobs_find(uint32_t *jobs, int max, struct gw_error *why);

#endif
