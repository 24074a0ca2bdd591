"""An independent engine that computes what the application must find: Python's csv module, zoneinfo and DuckDB.

It shares no code with the application and no engine with Spark: files are read line by line, every sum is an
integer, every ratio one integer division. Slow and plain on purpose.

    outcome = Oracle().run(Path("data"))
    outcome.files["streams/a.csv"].valid
    outcome.tables["kpis/daily_genre"]
"""

from tests.oracle.engine import Oracle, Outcome
from tests.oracle.fates import BadRow, FileFate

__all__ = ["BadRow", "FileFate", "Oracle", "Outcome"]
