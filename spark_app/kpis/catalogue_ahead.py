"""The catalogue of the KPIs, made as soon as the songs are staged, while listens still are."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

from spark_app.config.contracts import Dataset
from spark_app.kpis.inputs import Catalogue, number_catalogue
from spark_app.kpis.song_catalogue import current_songs
from spark_app.run.context import Context
from spark_app.spark.session import small_queries


class CatalogueAhead:
    """Numbers the songs of one version of the staged table, beside whatever else goes on."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._pool = ThreadPoolExecutor(1)
        self._begun: tuple[int, Future[Catalogue]] | None = None

    def begin(self, songs_version: int) -> Future[Catalogue]:
        """Begin with a version, unless that is what was begun before."""
        if self._begun is None or self._begun[0] != songs_version:
            self._begun = songs_version, self._pool.submit(self._number, songs_version)
        return self._begun[1]

    def at(self, songs_version: int) -> Catalogue:
        """Return the catalogue of a version; what went wrong in making it is raised here."""
        return self.begin(songs_version).result()

    def _number(self, songs_version: int) -> Catalogue:
        spark = self._context.spark
        with small_queries(spark):
            staged = self._context.lake.staged(Dataset.SONGS).read(spark, songs_version)
            songs = current_songs(staged).localCheckpoint(eager=False)
            return number_catalogue(songs, lambda frame: frame.localCheckpoint(eager=False))
