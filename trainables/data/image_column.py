"""Encoded images in a column of an Arrow table or Parquet file: binary of any size, or structs with such a field `bytes`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def is_bytes(kind: pa.DataType) -> bool:
    """Return whether values of an Arrow type are bytes."""
    kinds = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary)
    return any(is_kind(kind) for is_kind in kinds)


def encoded(column: pa.Array) -> pa.Array:
    """Return the encoded images of a column: it, or the field `bytes` of a struct, null where the struct is."""
    return column.flatten()[column.type.get_field_index("bytes")] if pa.types.is_struct(column.type) else column


def rows(path: Path, column: str, wanted: Iterator[int]) -> Iterator[bytes | None]:
    """Yield the encoded images in the given ascending rows of a file."""
    file, first, row = pq.ParquetFile(path), 0, next(wanted, None)
    for group in range(file.num_row_groups):
        behind = first + file.metadata.row_group(group).num_rows
        if row is not None and row < behind:
            for batch in file.iter_batches(64, row_groups=[group], columns=[column]):
                images = encoded(batch.column(0))
                while row is not None and row < first + len(batch):
                    yield images[row - first].as_py()
                    row = next(wanted, None)
                first += len(batch)
        first = behind
