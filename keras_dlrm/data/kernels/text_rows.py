"""Rows of delimited text, found and read by compiled loops."""

import numpy as np

from keras_dlrm.data.kernels.compiled import compiled

# A row with more bytes than this cannot be used; a quote that is still open then is not a quoting at all.
MAX_ROW = 2**20
GOOD, FIELDS, QUOTES, UTF8, LONG = range(5)
_NEWLINE, _RETURN, _QUOTE = 10, 13, 34
_POWERS = np.array([10.0**k for k in range(23)])


@compiled
def find_rows(data, at, final, separator, quote, width, slots, starts, ends, numbers, codes, counts):  # type: ignore[no-untyped-def]
    """Find the fields of whole rows, until the data or the room for rows end.

    A field that begins with a quote ends with one; two of them inside are one. Where that does not work out, the line
    as it is, up to its line end, is one bad row.

    Args:
        data: uint8; doubled quotes become single ones in it.
        at: Where to begin.
        final: Whether the file ends with the data.
        separator: Byte between fields.
        quote: Byte that fields are quoted with; one above 255 for none.
        width: Fields that a row must have.
        slots: int64 (width,), where field k goes in `starts`, or -1.
        starts, ends: int64 (slots, rows), filled for good rows.
        numbers: int64 (rows,), how many lines of `data` before the row.
        codes: uint8 (rows,), `GOOD` or what is wrong.
        counts: int64 (rows,), fields of the row.

    Returns:
        `(rows, at, lines)`: how many rows, and bytes and lines up to their end.
    """
    rows, lines, size = 0, 0, len(data)
    begins, stops = np.empty(width, np.int64), np.empty(width, np.int64)
    while rows < len(numbers) and at < size:
        limit = min(size, at + MAX_ROW)
        position, fields, inside, doubled = at, 0, 0, False
        code, complete = GOOD, False
        while True:  # a field each
            quoted = position < limit and data[position] == quote
            if quoted:
                begin = position + 1
                position = begin
                while position < limit:
                    if data[position] == _QUOTE:
                        if position + 1 < limit and data[position + 1] == _QUOTE:
                            doubled = True
                            position += 1
                        else:
                            break
                    elif data[position] == _NEWLINE:
                        inside += 1
                    position += 1
                if position >= limit:
                    if limit == size and not final:
                        return rows, at, lines
                    code = QUOTES
                    break
                stop = position
                position += 1
                if position < size and data[position] == _RETURN:
                    if data[position + 1] == _NEWLINE if position + 1 < size else final:
                        position += 1
            else:
                begin = position
                while position < limit and data[position] != separator and data[position] != _NEWLINE:
                    position += 1
                if position == limit and limit < size:
                    code = LONG
                    break
                stop = position
            if position == size:
                if not final:
                    return rows, at, lines
                complete = True
            elif data[position] == _NEWLINE:
                complete = True
            elif data[position] != separator:  # behind a quote
                if position + 1 == size and not final:
                    return rows, at, lines
                code = QUOTES
                break
            if complete and not quoted and stop > begin and data[stop - 1] == _RETURN:
                stop -= 1
            if fields < width:
                begins[fields], stops[fields] = begin, stop
            fields += 1
            position += 1
            if complete:
                break
        if code != GOOD:
            # Only this line is lost, wherever its quotes lead.
            position, inside = at, 0
            while position < size and data[position] != _NEWLINE:
                position += 1
            if position == size and not final:
                return rows, at, lines
            if position - at > MAX_ROW:
                code = LONG
            position += 1
        elif fields != width:
            code = FIELDS
        elif not valid_utf8(data, at, min(position, size)):
            code = UTF8
        numbers[rows], codes[rows], counts[rows] = lines, code, fields
        if code == GOOD:
            for k in range(width):
                slot = slots[k]
                if slot >= 0:
                    begin, stop = begins[k], stops[k]
                    if doubled and begin > 0 and data[begin - 1] == _QUOTE:
                        stop = _single(data, begin, stop)
                    starts[slot, rows], ends[slot, rows] = begin, stop
        rows += 1
        lines += 1 + inside
        at = min(position, size)
    return rows, at, lines


@compiled
def _single(data, begin, stop):  # type: ignore[no-untyped-def]
    """Two quotes → one, in place. Returns where the field ends then."""
    to, position = begin, begin
    while position < stop:
        data[to] = data[position]
        position += 2 if data[position] == _QUOTE else 1
        to += 1
    return to


@compiled
def valid_utf8(data, start, end):  # type: ignore[no-untyped-def]
    """True where bytes are UTF-8 (The Unicode Standard, table 3-7)."""
    i = start
    while i < end:
        lead = data[i]
        i += 1
        if lead < 0x80:
            continue
        if lead < 0xC2 or lead > 0xF4:
            return False
        more = 1 if lead < 0xE0 else 2 if lead < 0xF0 else 3
        code = np.int64(lead) & (0x3F >> more)
        for _ in range(more):
            if i >= end or data[i] & 0xC0 != 0x80:
                return False
            code = code << 6 | np.int64(data[i]) & 0x3F
            i += 1
        if code < (0x80, 0x800, 0x10000)[more - 1] or 0xD800 <= code < 0xE000 or code > 0x10FFFF:
            return False
    return True


@compiled
def read_numbers(data, starts, ends, out, other):  # type: ignore[no-untyped-def]
    """Plain decimal numbers, fields of uint8 `data` → float64 `out` (n,), exactly rounded, NaN where empty.

    `other` (n,) is set where a field is something else, or has more digits than a float64 holds exactly: how many are.
    """
    others = 0
    for i in range(len(starts)):
        at, end = starts[i], ends[i]
        other[i] = False
        if at == end:
            out[i] = np.nan
            continue
        negative = data[at] == 45
        if negative or data[at] == 43:
            at += 1
        value, digits, places, seen, plain = np.int64(0), 0, 0, False, True
        while at < end:
            c = data[at]
            if 48 <= c <= 57:
                value = value * 10 + np.int64(c - 48)
                digits += 1 if value else 0
                places += 1 if seen else 0
                if digits > 15 or places > 22:
                    plain = False
                    break
            elif c == 46 and not seen:
                seen = True
            else:
                plain = False
                break
            at += 1
        # Both the digits and the power of ten are exact, so that their quotient is rounded once.
        last = data[end - 1]
        if not plain or not (48 <= last <= 57):
            other[i] = True
            others += 1
            continue
        number = np.float64(value) / _POWERS[places]
        out[i] = -number if negative else number
    return others


@compiled
def split_fields(data, starts, ends, mark, most, flat_starts, flat_ends, rows, places, long):  # type: ignore[no-untyped-def]
    """Fields that are lists, parted by the byte `mark` → their parts, rows and places, (n · most,) each: how many there are.

    `long` (n,) says how many parts a field with more than `most` has, none of which are written; else it is 0.
    """
    total = 0
    for i in range(len(starts)):
        long[i] = 0
        begin, end = starts[i], ends[i]
        if begin == end:
            continue
        parts = 1
        for k in range(begin, end):
            if data[k] == mark:
                parts += 1
        if parts > most:
            long[i] = parts
            continue
        place = 0
        for k in range(begin, end + 1):
            if k == end or data[k] == mark:
                flat_starts[total], flat_ends[total], rows[total], places[total] = begin, k, i, place
                begin = k + 1
                place += 1
                total += 1
    return total
