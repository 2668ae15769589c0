"""Print the first rows of datasets: python examples/first_rows.py embed-run/dataset …"""

import json
import sys

import pyarrow.parquet as pq

for path in sys.argv[1:]:
    table = pq.read_table(path)
    about = json.loads(table.schema.metadata[b"hpc_embed"])
    untrained = ", UNTRAINED: random weights, not an embedding" if about["untrained"] else ""
    print(f"\n{path}: {table.num_rows} rows, {about['model']}, pooling {about['pooling']}{untrained}")
    for row in table.slice(0, 3).to_pylist():
        numbers = " ".join(f"{number:8.4f}" for number in row["embedding"][:4])
        print(f"  {row['id'][:30]:<30} {row['length']:>6} {row['status']:<9} {numbers} …")
