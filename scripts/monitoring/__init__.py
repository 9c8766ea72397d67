"""Grafana's dashboards in ``deploy/grafana/dashboards``, made of a table."""
