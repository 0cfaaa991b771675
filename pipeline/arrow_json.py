"""Arrow values as JSON text, column by column: lists, structs and maps without a Python loop."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .json_lines import quote

_HEX = np.frombuffer(b"".join(b"%02x" % byte for byte in range(256)), np.uint16)


def _text(value: str) -> pa.Scalar:
    return pa.scalar(value, pa.large_string())


def _joined(*pieces: pa.Array | pa.Scalar) -> pa.Array:
    return pc.binary_join_element_wise(*pieces, _text(""))


def hexadecimal(values: pa.Array) -> pa.Array:
    """large_string [n]: bytes as hexadecimal digits, null for null."""
    wide = values.cast(pa.large_binary())
    start, count = wide.offset, len(wide)
    offsets = np.frombuffer(wide.buffers()[1], np.int64)[start : start + count + 1]
    data = np.frombuffer(wide.buffers()[2] or b"", np.uint8)[offsets[0] : offsets[-1]]
    valid = np.packbits(np.asarray(pc.is_valid(wide).to_numpy(zero_copy_only=False)), bitorder="little")
    buffers = [pa.py_buffer(valid), pa.py_buffer((offsets - offsets[0]) * 2), pa.py_buffer(_HEX[data])]
    return pa.Array.from_buffers(pa.large_string(), count, buffers)


def to_json(values: pa.Array) -> pa.Array:
    """large_string [n] of JSON without spaces, `null` for null.

    NaN and infinities become null; dates, times and decimals strings; bytes strings of hexadecimal digits.
    """
    kind = values.type
    if pa.types.is_dictionary(kind):
        return to_json(values.dictionary_decode())
    if pa.types.is_map(kind):
        entry = pa.struct([pa.field("key", kind.key_type), pa.field("value", kind.item_type)])
        wide = values.cast(pa.list_(entry)).cast(pa.large_list(entry))
        entries = wide.flatten()
        pairs = _joined(quote(as_text(entries.field(0))), _text(":"), to_json(entries.field(1)))
        return _wrapped(wide, pairs, "{", "}")
    if pa.types.is_struct(kind):
        return _struct(values)
    if pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind):
        return to_json(pa.array(values.to_pylist(), pa.large_list(kind.value_field)))
    if pa.types.is_nested(kind):
        wide = values.cast(pa.large_list(kind.value_type))
        return _wrapped(wide, to_json(wide.flatten()), "[", "]")
    if pa.types.is_floating(kind):
        values = pc.if_else(pc.is_finite(values), values, pa.scalar(None, kind))
    if pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return pc.fill_null(values.cast(pa.large_string()), "null")
    return quote(as_text(values))


def as_text(values: pa.Array) -> pa.Array:
    """large_string [n] of values that are not nested, null for null; bytes as hexadecimal digits."""
    if pa.types.is_dictionary(values.type):
        return as_text(values.dictionary_decode())
    if (
        pa.types.is_binary(values.type)
        or pa.types.is_large_binary(values.type)
        or pa.types.is_binary_view(values.type)
        or pa.types.is_fixed_size_binary(values.type)
    ):
        return hexadecimal(values)
    return values.cast(pa.large_string())


def _struct(values: pa.Array) -> pa.Array:
    pieces: list[pa.Array | pa.Scalar] = []
    lead = "{"
    for place, field in enumerate(values.type):
        name = quote(pa.array([field.name], pa.large_string()))[0].as_py()
        pieces += [_text(f"{lead}{name}:"), to_json(values.field(place))]
        lead = ","
    shown = _joined(*pieces, _text("}")) if pieces else pa.repeat(_text("{}"), len(values))
    return pc.if_else(pc.is_valid(values), shown, _text("null"))


def _wrapped(lists: pa.Array, items: pa.Array, before: str, after: str) -> pa.Array:
    """`items`: the JSON of the lists' elements in order, as `flatten` gives them."""
    sizes = pc.fill_null(pc.list_value_length(lists), 0)
    offsets = np.zeros(len(lists) + 1, np.int64)
    np.cumsum(np.asarray(sizes), out=offsets[1:])
    regrouped = pa.LargeListArray.from_arrays(pa.array(offsets), items)
    shown = _joined(_text(before), pc.binary_join(regrouped, _text(",")), _text(after))
    return pc.if_else(pc.is_valid(lists), shown, _text("null"))
