"""Every bound of the system, with its unit in its name and its reason.

Limits are checked before memory is allocated. Reaching one is back-pressure or a typed error,
never growth.
"""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB

ID_MAX: Final = 2**63 - 1
"""Ids are 1 … 2^63 - 1: what every database and every client language can hold."""

NAME_NBYTES_MAX: Final = 1023
"""Path of a message: the field of the ASAPO header has 1024 bytes with the closing NUL."""

PATH_COMPONENT_NBYTES_MAX: Final = 255
"""NAME_MAX of every file system in use."""

STREAM_NBYTES_MAX: Final = 1023
SOURCE_NBYTES_MAX: Final = 1023
GROUP_NBYTES_MAX: Final = 1023
"""Three times what ASAPO allows after escaping; the header field ends there anyway."""

BEAMTIME_NBYTES_MAX: Final = 64
"""A beamtime is a folder name and a file name; facilities use 8 to 10 characters."""

CREDENTIALS_NBYTES_MAX: Final = 16 * KIB
"""Login of a producer: names plus a token; tokens of 4 kB are in use."""

TOKEN_NBYTES_MAX: Final = 8 * KIB
"""A token of ours has 300 bytes; anything near this is an attack on the parser."""

META_NBYTES_MAX: Final = 1 * MIB
"""Metadata of one message: the largest headers of detectors have some 100 kB."""

STREAM_META_NBYTES_MAX: Final = 8 * MIB
"""Metadata of a stream or beamtime: a NeXus-like tree may be large."""

META_DEPTH_MAX: Final = 32
META_NODES_MAX: Final = 10_000
"""Deeper or larger documents are not descriptions of a frame."""

PAYLOAD_NBYTES_MAX: Final = 8 * GIB
"""One message. A larger one is a file to be sent in parts."""

DATASET_SIZE_MAX: Final = 65_536
"""Substreams of one dataset: modules of a detector."""

CONNECTIONS_MAX: Final = 2048
"""Per door; each costs up to 256 KiB."""

CONNECTIONS_PER_CLIENT_MAX: Final = 512
"""Per token and instance: an official producer opens up to 32, and a program may have many."""

PRODUCER_CONNECTIONS_MAX: Final = 32
"""What discovery tells producers as MaxConnections, as the original does."""

STAGING_NBYTES: Final = 64 * KIB
"""Receive buffer of a connection: headers, metadata and small payloads pass through it."""

DIRECT_NBYTES_MIN: Final = 32 * KIB
"""Payloads from this size on are received straight into their slot; below, one copy is cheaper."""

HTTP_LINE_NBYTES_MAX: Final = 16 * KIB
"""Request line: stream names of 1 kB, percent-escaped, and a token."""

HTTP_HEAD_NBYTES_MAX: Final = 32 * KIB
HTTP_BODY_NBYTES_MAX: Final = 64 * KIB
"""Bodies of ASAPO's HTTP requests are queries and tokens."""

QUERY_NBYTES_MAX: Final = 16 * KIB
QUERY_SECONDS_MAX: Final = 1.0
QUERY_ROWS_MAX: Final = 10_000
QUERIES_AT_ONCE_MAX: Final = 2
"""A search must not freeze the node."""

LOGIN_SECONDS_MAX: Final = 10.0
"""From connecting to the end of the login."""

STALL_SECONDS_MAX: Final = 30.0
"""A peer that stops in the middle of a message or of reading a reply is cut off."""

CACHE_WAIT_SECONDS_MAX: Final = 30.0
"""A connection waits this long for room in the cache, then the producer is told to try again."""

HOLD_SECONDS: Final = 0.1
"""An empty `next` of a client known to wait is held open this long."""

SLOTS_MAX: Final = 98_304
"""Payloads in the cache at once: a slot costs some 430 bytes of bookkeeping (42 MB in all)."""

CACHE_NBYTES_MIN: Final = 16 * MIB
CACHE_ARENAS: Final = 8
"""The cache is made of this many arenas; the largest payload it takes fills one of them."""

NODE_OVERHEAD_NBYTES: Final = 150 * MIB
"""What a node may use beside its cache and its connections."""

RECENT_RECORDS_MAX: Final = 8_192
RECENT_NBYTES_MAX: Final = 32 * MIB
"""Records kept decoded for readers that are near the end of a stream."""

UNACKNOWLEDGED_IDS_MAX: Final = 500_000
"""One answer to `nacks`: below 10 MB."""

EARLY_ACKS_MAX: Final = 10_000
"""Acknowledgements of ids that do not exist (yet), per group and stream."""

LEASE_SECONDS_MAX: Final = 7 * 24 * 3600.0
"""Longest delay of a resend or negative acknowledgement."""

TOKEN_DAYS_MAX: Final = 366
FOLDER_TOKEN_SECONDS: Final = 600
TOKEN_LEEWAY_SECONDS: Final = 30
"""Clock differences between the machine that made a token and this one."""

GROUP_IDLE_DAYS: Final = 30
"""A group that nobody used for this long is forgotten."""

EDGES_MAX: Final = 4_096
CLIENTS_MAX: Final = 4_096
"""Rows of the tables of live producers, members and edges."""

DISK_RESERVE_NBYTES_MIN: Final = 64 * MIB
"""Kept free for records and positions when payloads fill the disk."""

VIEWS_MAX: Final = 20_000
"""Streams in use before idle ones are forgotten (they are read again when needed)."""

WAL_CHECKPOINT_NBYTES: Final = 16 * MIB
"""A catalog's log is copied into its file from this size on …"""

WAL_RESTART_NBYTES: Final = 256 * MIB
"""… and begun anew from this size on, for which commits must wait a moment."""

FILE_THREADS: Final = 8
"""Payload files written at once."""

SEGMENT_NBYTES: Final = 256 * MIB
"""A segment is closed and the next one begun at this size: what is read through after a crash."""

SEGMENTS_UNSYNCED_MAX: Final = 4
"""Segments that were appended to since the last sync, before an append waits for one."""

SEGMENTS_READ_MAX: Final = 64
"""Segments of a beamtime kept open for reading."""

SEGMENT_DAMAGES_LISTED_MAX: Final = 1_000
"""Damaged places of a segment that are named after a crash; the messages there fail one by one."""

FOLDER_NOTES_MAX: Final = 100_000
"""Folders remembered as noted; beyond, they are noted again."""

ORPHANS_LISTED_MAX: Final = 1_000
"""Files without a record that are named in the log at start; the rest is counted."""

GROUPS_PER_STREAM_MAX: Final = 4_096
"""Groups of one stream in memory; those without leases are read again when needed."""

DRAIN_SECONDS_MAX: Final = 10.0
"""A node that stops waits this long for requests that are under way."""

HTTP_PIPELINED_MAX: Final = 64
"""Requests that a client may send ahead of their answers."""

BACKLOG: Final = 1024
"""Connections that may wait to be accepted."""

MEANT_SECONDS: Final = 10.0
"""How long a producer's "auto" is taken for the same beamtime before it is asked again."""

PURGE_ROWS: Final = 2_000
"""Rows of deleted streams removed at once, between two commits."""

EXPIRE_SECONDS: Final = 3_600.0
"""How often idle groups are looked for."""

WRITE_BEHIND_SECONDS: Final = 0.02
"""Positions of groups are written at most this often, however often something is committed."""

REREAD_IDS_MAX: Final = 100_000
"""Ids below a group's position that are looked through for open ones after a start."""

NATIVE_HEADER_NBYTES_MAX: Final = 8 * MIB
"""Header of a native frame: columns of a batch, or a document of metadata."""

NATIVE_BATCH_MAX: Final = 4_096
"""Messages in one native frame: beyond, nothing becomes cheaper per message."""

PRODUCER_RUNS_MAX: Final = 512
"""Runs of messages of one producer in one stream whose automatic ids are remembered for a re-send:
far more batches than can be stored and not yet answered."""

NATIVE_WINDOW_NBYTES: Final = 64 * MIB
"""Payload that a native client may have on its way without receipts."""

NATIVE_CHANNELS_MAX: Final = 1_024
"""Writers and subscriptions of one native connection."""

NATIVE_CALLS_MAX: Final = 256
"""Questions of one native connection that are not answered yet; further ones wait."""

SESSION_NBYTES: Final = 16
"""The number of a native session: random, and never guessed."""

NATIVE_CREDIT_MESSAGES_MAX: Final = 65_536
NATIVE_CREDIT_NBYTES_MAX: Final = 1 * GIB
"""What a native reader may ask to be pushed ahead; it has to hold it in memory."""

NATIVE_QUEUE_NBYTES_MAX: Final = 32 * MIB
"""Bytes that wait for the socket of one native reader before its subscriptions pause."""

NATIVE_RESUME_SECONDS: Final = 10.0
"""A broken connection that comes again within this time finds its leases."""

NATIVE_REPLY_NBYTES_MAX: Final = 64 * MIB
"""Payload in the answer to one call; a larger single payload comes alone."""

HEADER_VERSIONS_MAX: Final = 100
"""Versions of the header of one stream that are kept; a scan changes it a few times."""

HEADER_PUSHED_NBYTES_MAX: Final = 1 * MIB
"""Headers of streams up to this size are told to subscribers; a larger one is asked for."""

RUN_NBYTES_MAX: Final = 256 * KIB
"""Document of a run: versions of code and the parameters of one step."""

RESULTS_MAX: Final = 1_000
RESULTS_NBYTES_MAX: Final = 64 * MIB
"""Results of one input that are published as one unit."""

AFFINITIES_MAX: Final = 65_536
"""Keys of one group in one stream that are bound to a member; beyond, the oldest are forgotten."""

ERRORS_COUNTED_MAX: Final = 64
"""Codes of errors that are counted: more than there are."""

RELAYED_MAX: Final = 64
"""Requests for the page, the API and the metrics that are under way at once."""

SHARED_NBYTES_MIN: Final = 64 * KIB
"""Smaller payloads come by the socket: that is cheaper than keeping count of who looks at them."""

SHARED_SESSION_PART: Final = 20
"""One session may hold a 20th of the cache pinned …"""

SHARED_PART: Final = 4
"""… and all together a quarter: so much more memory may be in use than the cache has, when readers
hold on to what was given up."""

SHARED_GRANTS_MAX: Final = 64
"""Pieces of memory that one writing client is lent and has not used, and that it waits for."""

ARRAY_NBYTES_MAX: Final = PAYLOAD_NBYTES_MAX
"""What a reader allocates for one unpacked array: no more than could have been sent as it is."""

ARRAY_NDIM_MAX: Final = 32
"""Dimensions of an array: what every numpy in use can hold."""

ARRAY_FIELDS_MAX: Final = 1_024
"""Fields of a structured dtype, nested ones included."""

ARRAY_DTYPE_NBYTES_MAX: Final = 64 * KIB
"""A dtype as text: so many fields with names of usual length."""

BITSHUFFLE_NBYTES_MAX: Final = 4 * GIB - 1
"""Array in one bitshuffle-LZ4 chunk: a chunk of HDF5 is not larger."""

SEEDEE_NBYTES_MAX: Final = 1 * GIB
"""Array in the seedee format: its library takes no larger one."""

HDF5_OBJECTS_MAX: Final = 10_000
"""Objects of an HDF5 payload that are looked at for the one dataset that is meant."""

ADDRESS_NBYTES_MAX: Final = 16 * KIB
"""An address as text: three names of 1 kB, percent-escaped, and a range."""
