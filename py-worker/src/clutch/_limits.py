"""The bounds of the protocol: the Python side of `protocol/src/limits.rs`, which gives the reasons.

What only a worker bounds is at the end. A test compares the first part with the Rust file.
"""

__all__ = [
    "ATTACHMENTS_MAX",
    "ATTACHMENT_ALIGNMENT",
    "ATTACH_BYTES_MIN",
    "CALL_ID_BITS",
    "CHAIN_LINKS_MAX",
    "DEPTH_MAX",
    "DESCRIPTORS_MAX",
    "DIMENSIONS_MAX",
    "DTYPE_BYTES_MAX",
    "EXCEPTION_BASES_MAX",
    "FAILURE_TEXT_BYTES_MAX",
    "FUNCTION_NAME_BYTES_MAX",
    "HEADER_BYTES",
    "IMPORT_TIMES_MAX",
    "LANES_MAX",
    "LINK_TEXT_BYTES_MAX",
    "LOG_NAME_BYTES_MAX",
    "LOG_TEXT_BYTES_MAX",
    "META_BYTES_MAX",
    "NAME_TEXT_BYTES_MAX",
    "NOTES_MAX",
    "PAYLOAD_BYTES_MAX",
    "PLACE_WORDS",
    "PROGRESS_TEXT_BYTES_MAX",
    "RECEIVE_BYTES",
    "RECORD_BYTES_MAX",
    "SOURCE_TEXT_BYTES_MAX",
    "STREAMS_MAX",
    "STREAM_CREDIT_MAX",
    "TRACEBACK_FRAMES_MAX",
]

HEADER_BYTES = 32
META_BYTES_MAX = 1 << 20
PAYLOAD_BYTES_MAX = 1 << 30
FUNCTION_NAME_BYTES_MAX = 512
FAILURE_TEXT_BYTES_MAX = 64 << 10
CHAIN_LINKS_MAX = 16
TRACEBACK_FRAMES_MAX = 64
EXCEPTION_BASES_MAX = 16
CALL_ID_BITS = 48
DEPTH_MAX = 128
LOG_TEXT_BYTES_MAX = 16 << 10
LOG_NAME_BYTES_MAX = 512
IMPORT_TIMES_MAX = 16
LANES_MAX = 256
# On the page: from the place of a call's id to that of its items, and what lies between.
PLACE_WORDS = LANES_MAX + 1
DESCRIPTORS_MAX = 64
ATTACHMENTS_MAX = 4096
ATTACH_BYTES_MIN = 64 << 10
ATTACHMENT_ALIGNMENT = 64
DIMENSIONS_MAX = 32
DTYPE_BYTES_MAX = 32
STREAMS_MAX = 64
STREAM_CREDIT_MAX = 4096
PROGRESS_TEXT_BYTES_MAX = 512
RECORD_BYTES_MAX = 1 << 30

# A frame that fits is received and parsed in place; a longer one gets a buffer of its own size.
RECEIVE_BYTES = 64 << 10

# The texts of a failure must fit one meta together: message and traceback (64 KiB each), notes,
# links, base classes, and for each of 64 frames a file, a function and a source line.
NOTES_MAX = 16
LINK_TEXT_BYTES_MAX = 4 << 10
NAME_TEXT_BYTES_MAX = 1 << 10
SOURCE_TEXT_BYTES_MAX = 1 << 10

assert (
    2 * FAILURE_TEXT_BYTES_MAX
    + (NOTES_MAX + CHAIN_LINKS_MAX) * LINK_TEXT_BYTES_MAX
    + TRACEBACK_FRAMES_MAX * (2 * NAME_TEXT_BYTES_MAX + SOURCE_TEXT_BYTES_MAX)
    + EXCEPTION_BASES_MAX * NAME_TEXT_BYTES_MAX
    < META_BYTES_MAX // 2
)
