"""Sizes and times as people say them, wherever they are told."""

from __future__ import annotations

BINARY_UNITS = ("KiB", "MiB", "GiB", "TiB")


def format_bytes(num_bytes: float) -> str:
    """`512 B`, `3.2 GiB`, `24 GiB`."""
    if num_bytes < 1000:
        return f"{num_bytes:.0f} B"
    size, unit = num_bytes / 1024, 0
    while size >= 999.5 and unit < len(BINARY_UNITS) - 1:
        size, unit = size / 1024, unit + 1
    return f"{size:,.0f} {BINARY_UNITS[unit]}" if size >= 9.95 else f"{size:.1f} {BINARY_UNITS[unit]}"


def format_seconds(seconds: float) -> str:
    """`less than 0.1 s`, `0.4 s`, `45 s`, `12 min`, `1 h 05 min`, `2 d 04 h`."""
    if seconds < 0.1:
        return "less than 0.1 s"
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours = round(minutes / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if hours < 48 else f"{hours // 24} d {hours % 24:02d} h"
