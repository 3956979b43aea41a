"""The data in `data/`: runs on disk, their rows as a table, and others' published results."""

from skiplab.paths import data_path, file_name, inside, installed, notebooks_path, runs_directory, slug
from skiplab.store.frames import COLUMNS, frame
from skiplab.store.llama_bench import recorded_llama_bench
from skiplab.store.noted import noted_runs
from skiplab.store.published import published
from skiplab.store.queries import query
from skiplab.store.runs import Run, operation_in, read_run, read_runs
from skiplab.store.schema import END, FLAGS, SCHEMA, STATUSES, RunFileError
from skiplab.store.writer import RunWriter, file_to_begin

__all__ = [
    "COLUMNS", "END", "FLAGS", "SCHEMA", "STATUSES", "Run", "RunFileError", "RunWriter", "data_path", "file_name",
    "file_to_begin", "frame", "inside", "installed", "notebooks_path", "noted_runs", "operation_in", "published",
    "query", "read_run", "read_runs", "recorded_llama_bench", "runs_directory", "slug",
]  # fmt: skip
