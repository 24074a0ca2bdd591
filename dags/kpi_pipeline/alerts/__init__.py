"""What people are told of a run; how it reaches them is `dags/alert_channels.py`, by Airflow's own notifiers."""
