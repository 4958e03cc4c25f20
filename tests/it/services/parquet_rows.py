"""Reads Parquet files with Apache Arrow: a line of JSON for each file, with the types of its columns and its rows."""

import datetime
import json
import sys

import pyarrow.parquet


def plain(value):
    if isinstance(value, datetime.datetime):
        return value.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
    return value


for path in sys.stdin.read().splitlines():
    file = pyarrow.parquet.ParquetFile(path)
    rows = [{name: plain(value) for name, value in row.items()} for row in file.read().to_pylist()]
    packed = file.metadata.row_group(0).column(0).compression
    types = {field.name: str(field.type) for field in file.schema_arrow}
    print(json.dumps({"file": path, "table": file.metadata.metadata[b"eds.table"].decode(), "packed": packed, "types": types, "rows": rows}))
