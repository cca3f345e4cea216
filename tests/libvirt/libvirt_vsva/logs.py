# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""The event log and the trace of a domain's back-end, as docs/libvirt.md has them."""

import re
from pathlib import Path

from .domain import UUID

DOCUMENT = Path(__file__).resolve().parents[3] / "docs/libvirt.md"
FOLDER = f"/var/log/vhost-user-vsva/{UUID}"


def enable(domain):
    """What the document says to put into the domain's unit."""
    section = DOCUMENT.read_text(encoding="utf-8").split("\n## Event log and trace of a domain\n")[
        1
    ]
    lines = re.search(r"(?m)(^    .+\n)+", section)[0]
    text = re.sub("(?m)^    ", "", lines)
    domain.host.change_unit(domain.service, text, "logs", "/etc/systemd/system")
