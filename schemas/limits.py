"""Every limit that more than one process must agree on, stated once. Changing one needs no other edit."""

from __future__ import annotations

# Sizes, in bytes. NATS brokers accept 1 MiB a message by default; base64 makes inline data a third longer.
INLINE_MAX = 256 * 1024  # more than this (before base64) travels by the object store
TASK_MAX = 768 * 1024  # a whole encoded task; the rest of 1 MiB is for what a WORK message adds
ERROR_MAX = 2_000  # characters of one attempt's error that are kept
ERRORS_KEPT = 20  # attempts' errors that a task carries
OUTPUT_TAIL = 32 * 1024  # bytes of stdout and of stderr that a command's result keeps
OUTPUT_FRAME = 32 * 1024  # bytes of one message on the output subject
REASON_MAX = 300  # characters of a human-readable reason

# Counts.
ARGV_MAX = 1_000
LABELS_MAX = 32
FUNCTIONS_MAX = 500  # functions that one node may offer
PAGE = 200  # rows of one API page unless asked for less
RETRIES_MAX = 100
NODE_QUEUE_MAX = 256  # attempts, running or waiting, that one node may hold at a time
HELD_MAX = 4 * NODE_QUEUE_MAX  # attempts that one heartbeat may list
OUTBOX_LETTERS = 2 * NODE_QUEUE_MAX  # results and outcomes that a node keeps on disk while it cannot deliver them, and
OUTBOX_BYTES = 256 << 20  # their size; at either bound it starts nothing more, and what runs is still kept
CHUNK_ITEMS_MAX = 100_000  # items of one map chunk
CACHE_VALUE_MAX = 512 * 1024  # of one value in a cluster's cache; base64 makes it a third longer on its way
CLUSTER_MADE_MAX = 64  # nodes of a cluster that an operator makes, and the most of whom each is told who its peers are

# Times, in seconds.
HEARTBEAT_S = 5.0  # between two beats of a node in a small fleet
BEATS_STRETCHED = 6.0  # how much rarer a node beats at most, in the power mode critical
BEATS_MISSED = 3  # silent beats after which a node is lost
PROBE_S = 1.0  # how long a probe may take to answer
WORK_ACK_WAIT_S = 60.0  # an un-acked WORK message is redelivered after this
WORK_PROGRESS_S = (
    15.0  # a node says +WPI for held work about this often, three times as rarely at most: inside WORK_ACK_WAIT_S
)
TASKS_ACK_WAIT_S = 600.0  # the coordinator's own: its death deletes the consumer, which redelivers at once
STARTED_EVENT_S = 0.05  # an attempt's start is said by its node once it runs this long; a quicker one's with its end
LEASE_S = 2.0  # a coordinator's lease; renewed every LEASE_S / 4
# Exclusive work. A node asks every third of the lease, so that two answers may fail; it has to outlast a coordinator's
# takeover (LEASE_S, and as much again) and a reconnect (5 s and more). The node begins to stop `EXCLUSIVE_STOP_S` before the
# end: what hears a TERM has half a second, then comes KILL. The coordinator waits `EXCLUSIVE_MARGIN_S` longer than the
# lease: clocks that differ in speed by a tenth are still safe (EXCLUSIVE_LEASE_S / 10 < EXCLUSIVE_MARGIN_S).
EXCLUSIVE_LEASE_S = 15.0
EXCLUSIVE_STOP_S = 1.5
EXCLUSIVE_MARGIN_S = 2.0
RESULT_AGE_S = 7 * 86_400.0  # results are kept this long
RESULT_BY_S = 6 * 86_400.0  # later than this after its submission, a result comes as an outcome and is judged
EVENT_AGE_S = 30 * 86_400.0
RESULTS_BYTES = 1 << 30  # a full RESULTS stream pauses the intake; it never drops
CHUNKS_BYTES = (
    2 << 30
)  # of artifacts (the broker sets it aside); a full stream refuses new versions until old ones are removed
EVENTS_BYTES = 512 << 20  # the oldest events go first
DEAD_AGE_S = 7 * 86_400.0  # dead letters are kept this long,
DEAD_LETTERS = 20_000  # and at most so many,
DEAD_BYTES = 512 << 20  # of at most this size: the oldest go first
DEAD_ERROR_MAX = 200  # characters of each error in a letter that would be too large otherwise
OBJECT_AGE_S = 8 * 86_400.0  # inputs and outputs outlive the results that name them
DUPLICATE_WINDOW_S = 120.0  # the broker forgets a Nats-Msg-Id after this
TIMEOUT_MAX_S = 30 * 86_400.0
APP_REPORT_S = 30.0  # a device says how its apps are at least this often
CHUNK_BYTES = (
    256 * 1024
)  # of an artifact, in one message of FOG_CHUNKS; a device asks for as many at a time as its advice says
CACHE_TTL_MAX_S = 30 * 86_400.0
DECIDE_MAX_S = 3600.0  # the longest that a proposal may wait for votes
SLEEP_MAX_S = 86_400.0  # the longest gap that a node may announce
