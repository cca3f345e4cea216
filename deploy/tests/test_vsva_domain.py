# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

import argparse
import contextlib
import io
import sys
import tempfile
import unittest
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from .loader import LIBVIRT, load

sys.dont_write_bytecode = True
vsva_domain = load("vsva-domain")

UUID = "5a0c1f4e-6a52-4d0f-9c7b-3f1c7c2e8a10"
QEMU = "/usr/local/bin/qemu-system-aarch64"
PLAIN = f"""\
<domain type="kvm">
  <name>guest</name>
  <uuid>{UUID}</uuid>
  <os>
    <type arch="aarch64" machine="virt-10.2">hvm</type>
  </os>
  <features>
    <gic version="3"/>
  </features>
  <devices>
    <emulator>/usr/bin/qemu-system-aarch64</emulator>
    <controller type="pci" index="1" model="pcie-root-port">
      <address type="pci" domain="0x0000" bus="0x00" slot="0x01" function="0x0"/>
    </controller>
  </devices>
</domain>
"""
METADATA = """\
  <metadata>
    <a:note xmlns:a="urn:another">text &amp; more</a:note>
  </metadata>
"""
COMMANDLINE = """\
  <qemu:commandline>
    <qemu:arg value="-msg"/>
    <qemu:arg value="timestamp=on"/>
    <qemu:env name="NAME" value="value"/>
  </qemu:commandline>
"""


def with_commandline(xml, commandline=COMMANDLINE):
    return (xml.replace("<domain ", f'<domain xmlns:qemu="{vsva_domain.QEMU_NS}" ')
            .replace("</domain>", commandline + "</domain>"))


def with_metadata(xml):
    return xml.replace("  <os>", METADATA + "  <os>")


def with_iommu(xml, iommu='<iommu model="smmuv3"/>'):
    return xml.replace("  </devices>", f"    {iommu}\n  </devices>")


def add(xml, *devices, emulator=QEMU, **options):
    domain = vsva_domain.Domain(xml)
    domain.add(emulator, [vsva_domain.Device(value) for value in devices or ("vsva-testdev,addr=0x10",)], **options)
    return domain.xml()


def remove(xml):
    domain = vsva_domain.Domain(xml)
    domain.remove()
    return domain.xml()


def arguments(xml):
    return [node.get("value") for node in ElementTree.fromstring(xml).iter(f"{{{vsva_domain.QEMU_NS}}}arg")]


VARIANTS = {
    "plain": PLAIN,
    "metadata": with_metadata(PLAIN),
    "commandline": with_commandline(PLAIN),
    "iommu": with_iommu(PLAIN),
    "all": with_iommu(with_commandline(with_metadata(PLAIN))),
    "comment": "<!-- a comment -->\n" + PLAIN,
}


class AddAndRemove(unittest.TestCase):
    def test_add_plain_domain_gets_device_iommu_and_emulator(self):
        xml = add(PLAIN, "vsva-testdev,addr=0x10", drain_timeout=7000)
        self.assertEqual(arguments(xml), [
            "-global", "arm-smmuv3.stall=on", "-global", "arm-smmuv3.ssidsize=8",
            "-chardev", f"socket,id=vsva0-chardev,path=/run/vhost-user-vsva/{UUID}.sock",
            "-device", "vhost-user-vsva,id=vsva0,chardev=vsva0-chardev,drain-timeout=7000,stop-timeout=2000",
            "-device", "vsva-testdev,addr=0x10,bus=pcie.0,vsva=vsva0"])
        devices = ElementTree.fromstring(xml).find("devices")
        self.assertEqual(devices.findtext("emulator"), QEMU)
        self.assertEqual(devices.find("iommu").get("model"), "smmuv3")

    def test_remove_after_add_gives_the_same_bytes_as_before(self):
        for name, xml in VARIANTS.items():
            with self.subTest(name):
                self.assertEqual(remove(add(xml)), xml)

    def test_add_twice_gives_the_same_bytes_as_once(self):
        for name, xml in VARIANTS.items():
            with self.subTest(name):
                self.assertEqual(add(add(xml)), add(xml))

    def test_add_again_with_other_options_changes_the_device_and_keeps_what_was_replaced(self):
        changed = add(add(PLAIN), "vsva-testdev,addr=0x11", "vsva-testdev,addr=0x12", emulator="/opt/qemu")
        self.assertEqual(sum("vsva-testdev" in value for value in arguments(changed)), 2)
        self.assertIn("<emulator>/opt/qemu</emulator>", changed)
        self.assertEqual(remove(changed), PLAIN)

    def test_timeouts_are_changed_by_add_and_taken_away_by_remove(self):
        xml = add(add(PLAIN), drain_timeout=9000, stop_timeout=0)
        self.assertIn("vhost-user-vsva,id=vsva0,chardev=vsva0-chardev,drain-timeout=9000,stop-timeout=0", arguments(xml))
        self.assertEqual(remove(xml), PLAIN)
        self.assertEqual(remove(add(PLAIN).replace(",stop-timeout=2000", "")), PLAIN)

    def test_remove_without_device_changes_nothing(self):
        for name, xml in VARIANTS.items():
            with self.subTest(name):
                self.assertEqual(remove(xml), xml)

    def test_add_keeps_arguments_and_environment_of_others(self):
        xml = add(with_commandline(PLAIN))
        self.assertEqual(arguments(xml)[:2], ["-msg", "timestamp=on"])
        self.assertIn('<qemu:env name="NAME" value="value"/>', xml)

    def test_example_is_what_add_makes(self):
        example = (LIBVIRT / "example.xml").read_text(encoding="utf-8")
        self.assertNotIn("vsva", remove(example).split("-->")[-1])
        self.assertEqual(add(remove(example), "vsva-testdev,id=acc0,addr=0x10"), example)

    def test_add_with_another_prefix_for_qemu_uses_it(self):
        xml = with_commandline(PLAIN).replace("qemu:", "q:").replace("xmlns:qemu", "xmlns:q")
        self.assertEqual(remove(add(xml)), xml)
        self.assertNotIn("<qemu:", add(xml))


class Refusals(unittest.TestCase):
    def assert_refused(self, xml, text, *devices):
        with self.assertRaises(vsva_domain.Refused) as refused:
            add(xml, *devices)
        self.assertIn(text, str(refused.exception))

    def test_not_understood_is_refused_with_the_reason(self):
        cases = {
            "not XML": (PLAIN[:-5], "not XML"),
            "another document": ("<network/>", "<network>"),
            "document type": ("<!DOCTYPE domain []>" + PLAIN, "document type"),
            "no uuid": (PLAIN.replace(f"  <uuid>{UUID}</uuid>\n", ""), "<uuid>"),
            "bad uuid": (PLAIN.replace(UUID, "../../etc"), "not a UUID"),
            "no emulator": (PLAIN.replace("    <emulator>/usr/bin/qemu-system-aarch64</emulator>\n", ""), "<emulator>"),
            "two devices": (PLAIN.replace("</devices>", "</devices><devices/>"), "more than one <devices>"),
            "x86": (PLAIN.replace('"aarch64"', '"x86_64"'), "aarch64 virt"),
            "another machine": (PLAIN.replace("virt-10.2", "raspi4b"), "aarch64 virt"),
            "gic 2": (PLAIN.replace('gic version="3"', 'gic version="2"'), "GICv3"),
            "no gic": (PLAIN.replace('    <gic version="3"/>\n', ""), "GICv3"),
            "virtio iommu": (with_iommu(PLAIN, '<iommu model="virtio"/>'), "smmuv3"),
            "iommu with options": (with_iommu(PLAIN, '<iommu model="smmuv3"><driver pciBus="1"/></iommu>'), "<iommu>"),
            "two iommus": (with_iommu(with_iommu(PLAIN)), "more than one <iommu>"),
        }
        for name, (xml, text) in cases.items():
            with self.subTest(name):
                self.assert_refused(xml, text)

    def test_device_of_someone_else_is_refused_by_add_and_remove(self):
        for value in ("vhost-user-vsva,chardev=c", "arm-smmuv3.stall=force"):
            xml = with_commandline(PLAIN, COMMANDLINE.replace("timestamp=on", value))
            with self.subTest(value):
                self.assert_refused(xml, value)
                with self.assertRaises(vsva_domain.Refused):
                    remove(xml)

    def test_device_changed_by_hand_is_refused(self):
        xml = add(PLAIN).replace("chardev=vsva0-chardev", "chardev=vsva0-chardev,queue-size=512")
        self.assert_refused(xml, "queue-size=512")
        with self.assertRaises(vsva_domain.Refused):
            remove(xml)

    def test_slot_in_use_is_refused(self):
        self.assert_refused(PLAIN, "slot 0x1", "vsva-testdev,addr=0x1")

    def test_slot_given_twice_is_refused(self):
        self.assert_refused(PLAIN, "the same addr", "vsva-testdev,addr=0x10", "vsva-testdev,addr=10")

    def test_device_option_not_understood_is_refused(self):
        for value in ("vsva-testdev", "vsva-testdev,addr=0x20", "vsva-testdev,addr=0", "vsva-testdev,addr=x", ",addr=0x10",
                      "vsva-testdev,addr=0x10,bus=pcie.1", "vsva-testdev,addr=0x10,vsva=other", "a b,addr=0x10",
                      "vsva-testdev,addr=0x10,on"):
            with self.subTest(value), self.assertRaises(argparse.ArgumentTypeError):
                vsva_domain.Device(value)


class Program(unittest.TestCase):
    def run_program(self, xml, *options):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "domain.xml"
            path.write_text(xml, encoding="utf-8")
            output, errors = io.StringIO(), io.StringIO()
            with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
                status = vsva_domain.main([*options, str(path)])
        return status, output.getvalue(), errors.getvalue()

    def test_program_add_then_remove_gives_the_first_xml(self):
        status, added, _ = self.run_program(PLAIN, "add", "--emulator", QEMU, "--device", "vsva-testdev,addr=0x10")
        self.assertEqual((status, added), (0, add(PLAIN)))
        self.assertEqual(self.run_program(added, "remove"), (0, PLAIN, ""))

    def test_program_refusal_prints_no_xml(self):
        status, output, errors = self.run_program("<network/>", "remove")
        self.assertEqual((status, output), (1, ""))
        self.assertIn("vsva-domain: ", errors)

    def test_timeout_not_understood_is_refused(self):
        for option, value in (("--stop-timeout", "-1"), ("--stop-timeout", "2s"), ("--stop-timeout", "10001"), ("--drain-timeout", "0"), ("--drain-timeout", "")):
            with self.subTest(option=option, value=value), self.assertRaises(SystemExit) as ended:
                self.run_program(PLAIN, "add", "--emulator", QEMU, "--device", "vsva-testdev,addr=0x10", option, value)
            self.assertEqual(ended.exception.code, 2)


if __name__ == "__main__":
    unittest.main()
