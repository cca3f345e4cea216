# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""A domain of a host, its guest program, and the events that libvirt passes on."""

import contextlib
import json
import re
import socket
import subprocess
import xml.etree.ElementTree as ElementTree

from avocado_vsva.guest import Guest
from avocado_vsva.journal import Journal, LineReader

from .host import IMAGES, QEMU, Background

UUID = "5a0c1f4e-6a52-4d0f-9c7b-3f1c7c2e8a10"
PLAIN = f"""\
<domain type='qemu'>
  <name>guest</name>
  <uuid>{UUID}</uuid>
  <memory unit='MiB'>256</memory>
  <vcpu>2</vcpu>
  <os>
    <type arch='aarch64' machine='virt'>hvm</type>
    <kernel>{IMAGES}/Image</kernel>
    <initrd>{IMAGES}/initramfs</initrd>
    <cmdline>console=ttyAMA0 panic=-1 loglevel=4</cmdline>
  </os>
  <features>
    <gic version='3'/>
  </features>
  <cpu mode='custom' match='exact' check='none'>
    <model>cortex-a57</model>
  </cpu>
  <on_reboot>destroy</on_reboot>
  <devices>
    <emulator>{QEMU}</emulator>
    <controller type='usb' model='none'/>
    <serial type='file'>
      <source path='/var/log/libvirt/qemu/guest-console.log'/>
    </serial>
    <channel type='unix'>
      <target type='virtio' name='org.vsva.ctl'/>
    </channel>
    <memballoon model='none'/>
  </devices>
</domain>
"""
EVENT = re.compile(r"event '?(\w+)'?(?: at [\d.]+)? for domain '[^']+': (.*)")


class Domain:
    """The domain "guest" of a host. Two hosts have the same one before and after its migration."""

    name = "guest"
    uuid = UUID
    service = f"vhost-user-vsva@{UUID}.service"
    socket_unit = f"vhost-user-vsva@{UUID}.socket"
    status_unit = f"vhost-user-vsva-status@{UUID}.socket"

    def __init__(self, host, folder):
        self.host = host
        self._folder = folder
        self._watchers = []
        self._socket = None
        self.guest = None
        self.events = Journal(f"{host.name} events")

    def change_program(self, program):
        """What its back-end's unit executes; None: what the unit says by itself."""
        text = program and f"[Service]\nExecStart=\nExecStart={program}\n"
        self.host.change_unit(self.service, text)

    def define(self, device=True, emulator=QEMU, **options):
        """Define it as libvirt understands it, then with the device."""
        self.host.virsh("define", "/dev/stdin", text=PLAIN.replace(QEMU, emulator))
        if device:
            self.define_xml(self.with_device(self.xml(), emulator, **options))
        return self

    def with_device(self, xml, emulator=QEMU, options=()):
        return self.host.run(
            "vsva-domain",
            "add",
            "--emulator",
            emulator,
            "--device",
            "vsva-testdev,addr=0x10",
            *options,
            text=xml,
        ).stdout

    def define_xml(self, xml):
        self.host.virsh("define", "--validate", "/dev/stdin", text=xml)

    def xml(self):
        return self.host.virsh("dumpxml", "--inactive", "--security-info", self.name)

    def virsh(self, command, *words, **options):
        return self.host.virsh(command, self.name, *words, **options)

    def state(self):
        return self.virsh("domstate")

    def running(self):
        return self.name in self.host.virsh("list", "--name").split()

    def start(self):
        self.virsh("start")
        self.connect()
        self.guest.wait_ready(60 * self.host.patience)
        return self

    def connect(self):
        """Connect to the guest program of the running domain, which serves one connection at a
        time.
        """
        self._disconnect()
        live = ElementTree.fromstring(self.virsh("dumpxml"))
        path = live.find("devices/channel/source").get("path")
        self._socket = self.host.connect(path)
        self.guest = Guest(
            self.host.name, self._socket, self._folder / f"{self.host.name}-guest.jsonl"
        )

    def _disconnect(self):
        if self._socket is not None:
            # The reader has a descriptor of its own.
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()
            self._socket = None

    def watch(self):
        """Follow what libvirt tells of the domain, and QEMU's events as it passes them on, from
        now on.
        """
        self._follow("qemu-events", self._parse_qemu, "qemu-monitor-event", "--loop")
        self._follow("lifecycle", self._parse_lifecycle, "event", "--event", "lifecycle", "--loop")
        return self

    def follow_virsh(self, name, *words):
        """A virsh in the background; what it prints are events."""
        return self._follow(name, lambda line: {"event": line.strip(), "data": None}, *words)

    def _follow(self, name, parse, *words):
        watcher = self.host.start(
            "stdbuf",
            "-oL",
            "virsh",
            "--quiet",
            *words,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self._watchers.append(watcher)
        LineReader(
            watcher.stdout.fileno(),
            self._folder / f"{self.host.name}-{name}.log",
            self.events,
            parse,
        )
        return watcher

    @staticmethod
    def _parse_qemu(line):
        match = EVENT.fullmatch(line.strip())
        if match is None:
            return None
        return {"event": match[1], "data": {} if match[2] == "<null>" else json.loads(match[2])}

    @staticmethod
    def _parse_lifecycle(line):
        match = EVENT.fullmatch(line.strip())
        return {"event": match[2].strip(), "data": None} if match else None

    def watch_running(self):
        """Follow the events of the running domain; a pause shows that the watcher has begun."""
        self.watch()
        missing = {"RESUME", "Resumed Unpaused"}
        while missing:
            since = len(self.events)
            self.virsh("suspend")
            self.virsh("resume")
            for name in list(missing):
                if self.events.absent(lambda event, name=name: event["event"] == name, 2, since):
                    missing.remove(name)
        return self

    def wait_event(self, name, timeout=30, since=0):
        return self.events.wait(lambda event: event["event"] == name, name, timeout, since)[1][
            "data"
        ]

    def event_names(self, since=0):
        return [event["event"] for event in self.events.all(since)]

    def qmp(self, command, **arguments):
        words = json.dumps({"execute": command, "arguments": arguments})
        answer = json.loads(self.virsh("qemu-monitor-command", words))
        if "error" in answer:
            raise AssertionError(answer["error"])
        return answer["return"]

    def query(self):
        return self.qmp("query-vsva")[0]

    def backend_pid(self):
        return int(
            self.host.run("systemctl", "show", "--property=MainPID", "--value", self.service).stdout
        )

    def backend_digest(self):
        """Of the program that its back-end runs, which may not be the installed one any more."""
        return self.host.run("sha256sum", f"/proc/{self.backend_pid()}/exe").stdout.split()[0]

    def kill_backend(self, signal="KILL"):
        self.host.run("systemctl", "kill", f"--signal={signal}", "--kill-whom=main", self.service)

    def wait_stop_waits(self):
        """Until a command "stop" waits for the device: QMP answers nothing else meanwhile."""
        while True:
            query = Background(self.query)
            query.join(1)
            if query.is_alive():
                return

    def close(self):
        for watcher in self._watchers:
            watcher.kill()
            watcher.wait()
        self._disconnect()
