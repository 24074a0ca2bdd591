"""KPIs in Redshift: the days of the lake's exports, loaded by COPY, each day of its newest export."""
