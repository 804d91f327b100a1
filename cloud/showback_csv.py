"""A showback's lines as CSV, for the API and for pages alike."""

from __future__ import annotations

import csv
import io

from compute.selectors.showback import Showback

COLUMNS = (
    *("from", "until", "tenant", "group_by", "group", "group_name"),
    *("resource", "per_hour", "currency", "unit_seconds", "quantity", "cost"),
)


def write_lines(report: Showback) -> str:
    """Return one row for each line, after a heading. Times in UTC; no totals, so that columns can be summed."""
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(COLUMNS)
    for line in report.lines:
        table.writerow(
            [
                report.period.start.isoformat(),
                report.period.until.isoformat(),
                report.tenant.name if report.tenant else "",
                report.group_by,
                line.group,
                line.group_name,
                line.resource,
                line.per_hour,
                report.currency,
                line.unit_seconds,
                line.quantity,
                line.cost,
            ]
        )
    return text.getvalue()
