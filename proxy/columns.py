"""The columns in which answers are counted: methods, statuses, and how long they took."""

# The methods that have a column of their own; all others count as OTHER.
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "OTHER")
METHOD_INDEX: dict[bytes, int] = {name.encode(): index for index, name in enumerate(METHODS)}
OTHER_METHOD = METHODS.index("OTHER")

# The statuses with a column of their own (the registered ones in use); others count under their class, `2xx` to `5xx`.
STATUSES = (
    101, 200, 201, 202, 203, 204, 205, 206, 207, 208, 226, 300, 301, 302, 303, 304, 307, 308,
    400, 401, 402, 403, 404, 405, 406, 407, 408, 409, 410, 411, 412, 413, 414, 415, 416, 417, 418, 421, 422, 423,
    424, 425, 426, 428, 429, 431, 451, 499, 500, 501, 502, 503, 504, 505, 506, 507, 508, 510, 511,
)  # fmt: skip
STATUS_LABELS = tuple(str(status) for status in STATUSES) + ("2xx", "3xx", "4xx", "5xx", "other")
STATUS_COLUMNS = 64
assert len(STATUS_LABELS) <= STATUS_COLUMNS
STATUS_INDEX: dict[int, int] = {status: index for index, status in enumerate(STATUSES)}
for _status in range(1000):
    if _status not in STATUS_INDEX:
        _label = f"{_status // 100}xx" if 200 <= _status <= 599 else "other"
        STATUS_INDEX[_status] = STATUS_LABELS.index(_label)

# Upper bounds of the latency histogram's buckets in seconds: 1, 2, 5 per decade from 100 µs to 500 s. An answer from
# memory takes well under a millisecond, a heavy query minutes; the ratio of 2 to 2.5 bounds a quantile's error.
LATENCY_BOUNDS_S = tuple(
    mantissa * 10.0**exponent for exponent in range(-4, 3) for mantissa in (1.0, 2.0, 5.0)
)
