"""The texts of alerts; they are sent by `dags/alert_channels.py`, Airflow's own notifiers."""
