"""Every number by which the core decides, in one place. What other processes must agree on is in `schemas.limits`."""

from __future__ import annotations

# Placing.
CANDIDATES = (
    4  # nodes whose score is worked out for one placement (of a few random ones the best is nearly the best of all)
)
WINDOW_BITS = 64  # node slots that are looked at first, from a random one on
QUEUE_MS = 50.0  # estimated work, per core, that a node's queue may hold beyond what fits it now
COST_FLOOR_MS = 0.2  # what any attempt costs a node, however short the function
UNKNOWN_MS = 1000.0  # the estimate for a function that was never seen to end
LONG_S = 300.0  # longer tasks go to a battery only if it charges or is well filled
LARGE_BYTES = 10_000_000  # more input than this does not go over metered networks
BATTERY_MIN = 30.0
BATTERY_LONG_MIN = 70.0
FAILED_PENALTY = 0.5  # taken off a node's score when the task failed there before

# Waiting and intake.
CLASSES_MAX = 1024  # different needs that are kept ready at a time
NODES_LOOKED_AT = 20_000  # times that a node is looked at, at a time, for tasks without a class
PINNED_MAX = 16_384  # the same for tasks that name their node
CLASS_WINDOW = 500  # tasks of one needs-class that may hold places of the intake window while it stands still
PRIORITY_WINDOW = 2000  # un-acked TASKS messages of one priority
LOOK_PAST = 100  # how many more are pulled at a time, and moved to _waiting, while a full window stands still
SLOW_S = 2.0  # a queue whose head is older than this, and
DRAIN_S = 5.0  # that will not be empty within this at its present rate, stands still
STILL_S = 5.0  # so does a priority of which nothing was placed for this long
UNFIT_PARK_S = 2.0  # tasks whose nodes all went unfit move to _waiting after this
WAITING_MAX = 100_000  # tasks held in _waiting; above it the intake stops
SUBMITTER_SHARE = 0.25  # of _waiting, for the tasks of one submitter
STAY_MAX = 10_000  # un-acked TASKS messages of one priority, besides the window, that wait for their submitter's share
ANNOUNCE_QUEUED_S = 0.5  # a task that waits longer for a slot is said to be queued
RESERVE_AFTER_S = 2.0  # a task passed by younger ones for this long gets a node kept free
RESERVE_LOOK = 64  # fitting nodes among which the best one is reserved

# Balance.
BEHIND_S = 2.0  # a task that waits at its node for longer, while another one is ready for it, is asked back
RELIEVE_AGAIN_S = 2.0  # a node is asked this often at most
RELIEVE_LOOK = 1_000  # nodes that are looked at in one go
HELPERS_LOOK = 16  # nodes with room whose free slots are counted
FOREIGN_LOAD_MAX = 0.75  # of a node's processor that others may use, before it is called overloaded
RAM_FREE_MIN = 0.03  # of its memory, below which it is
SHORT_S = 5.0  # tasks that wait for a slot for longer make the fleet degraded

# Splitting of map chunks.
SPLIT_MS = 2000.0  # a chunk that would run longer than this on its node is split, into parts of about half of it
SPLIT_SHORT_MS = 1000.0  # the same while capacity falls short: a slot comes free sooner, for twice the messages an item
PARTS_MAX = 16
LOST_SPLIT = 2  # a chunk whose attempts were lost with their nodes this often may be what ends them: it is halved
AGE_STEP_S = 1e-6  # parts stand before what is younger than the whole, in order; the clock's own step is 2.4e-7 s
SPLITS_KEPT = 10_000  # splits of which the parts are remembered

# Task life.
HOLD_S = 1.0  # a shorter backoff is kept where the task lies; a longer one moves it to _waiting
# A node that gave a task back does not get it again for this long, while another is a place for it.
SHUN_RETURNED_S = 30.0
SHUN_ALONE_S = 1.0  # and where none is, for this long (that a node takes nothing is told by its beats)
SHUN_FAILED_S = 2.0  # a retry waits this long for another node before it takes the one that it failed on
RETURN_BACKOFF_S = 0.5  # doubles with every return of a started attempt
RETURN_BACKOFF_MAX_S = 60.0
RETRY_AFTER_MAX_S = 86_400.0  # the longest wait before a further try that a node may ask for
LOST_FREE = 5  # losses with a node that are forgiven; later ones count as failed attempts
PLACE_AGAIN_S = 1.0  # after the broker did not take a WORK message
ASK_AGAIN_S = 10.0  # what RESULTS has not answered, a question or a result of ours, is said again
ASK_BATCH = 500
LETTERS_AGAIN_S = (
    10.0  # dead letters whose tasks have no result yet are looked at again after this, then ever more rarely,
)
LETTERS_GIVE_UP_S = 86_400.0  # and no more once the wait is this long
GONE_S = 120.0  # a task whose message was found gone, without any end of it, fails after this
DONE_KEPT = 100_000  # ids of ended tasks that are remembered
WHY_KEPT = 5_000  # ended tasks whose placement can still be explained
RESULT_BY_RENEW_S = 86_400.0  # a placement this close to its task's result_by moves it on

# Nodes.
NODES_PER_S = 2000.0  # heartbeats a second that the fleet may send: the interval grows with it
BEAT_GRACE = 0.15  # share of a gap (of two intervals at most) that a beat may be late: jitter and the way
BEAT_GRACE_S = 0.5
# Overdue beats are looked for so often, not at a moment of each node's own. A power of two, so that moments are exact.
DUE_LOOKS_PER_S = 16
STALL_S = 1.5  # between two ticks, of which one comes every 0.5 s: our own process stood still
# One cause (a switch, one of three brokers, our own end) silences many at once; independent deaths seldom do. Silence of
# max(MASS_MIN, MASS_SHARE × nodes that should beat) nodes at a time is held back for HOLD_BEATS intervals. A smaller share
# (or a longer hold) moves less work of nodes that live, and lets the work of more dead ones wait: 9 beats, not 3. A quarter
# lies under the third of a fleet that one of three servers takes with it; three are never one machine's bad luck.
MASS_SHARE = 0.25
MASS_MIN = 3
HOLD_BEATS = 6
COUNT_AGAIN_S = 0.5  # who is silent is counted at most this often: it costs a look at every node
CLOSED_TOGETHER_S = 1.0  # as many connections that close within this are a restart of what they went through,
LOOK_AGAIN_S = 1.0  # after which a node that lives is back (first tries: within 0.1, 0.3, 0.7 s): probed once more then
REPORT_AGAIN_S = 5.0  # a node that keeps sending what cannot be understood is asked to report this often
FORGET_NODE_S = 86_400.0  # a lost node leaves memory after this; its record is kept
SEEN_AGAIN_S = 600.0  # a node's record is written with the time again after this
AWAY_S = 2 * SEEN_AGAIN_S  # a node whose record says that it was not seen for longer was away before a takeover
NODE_RECORD_S = 30 * 86_400.0  # the record of a node that was not seen for this long is deleted
REGISTERING_S = 30.0  # an unanswered compare-and-set is given up after this
COMPACT_MIN = 100  # entries of what is over that a queue may keep besides as many as live
HOUSEKEEPING_S = 0.5

# What `fog doctor` is told of.
STUCK_QUEUED_S = 10.0  # first of its kind in the queue for longer than this, with a node ready for it
STUCK_CONFIRM_S = 30.0  # waiting for the broker's word
STUCK_OVERDUE_S = 60.0  # running for longer than its timeout: its node should have stopped it
REASONS_TOLD = 20  # different reasons for waiting
LOOKED_AT = 5_000  # tasks that are looked at in one go
STRANGERS_MAX = 10_000
