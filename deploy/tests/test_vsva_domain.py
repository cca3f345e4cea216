# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

import argparse
import os
import random
import re
import resource
import signal
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree as ElementTree

from .loader import LIBVIRT, load

sys.dont_write_bytecode = True
vsva_domain = load("vsva-domain")

UUID = "5a0c1f4e-6a52-4d0f-9c7b-3f1c7c2e8a10"
OTHER = "0b9bdc2e-3c61-4b06-8a4e-9f7f2b5a2f11"
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
    return xml.replace("<domain ", f'<domain xmlns:qemu="{vsva_domain.QEMU_NS}" ').replace(
        "</domain>", commandline + "</domain>"
    )


def with_metadata(xml):
    return xml.replace("  <os>", METADATA + "  <os>")


def with_device(xml, device):
    return xml.replace("  </devices>", f"    {device}\n  </devices>")


def with_iommu(xml, iommu='<iommu model="smmuv3"/>'):
    return with_device(xml, iommu)


def add(xml, *devices, emulator=QEMU, **options):
    domain = vsva_domain.Domain(xml.encode())
    return domain.add(
        emulator,
        [vsva_domain.Device(value) for value in devices or ("vsva-testdev,addr=0x10",)],
        **options,
    ).decode()


def remove(xml):
    return vsva_domain.Domain(xml.encode()).remove().decode()


def update(xml):
    return vsva_domain.Domain(xml.encode()).update().decode()


def of_earlier_release(xml):
    return xml.replace(".sock,reconnect-ms=100", ".sock")


def arguments(xml):
    return [
        node.get("value")
        for node in ElementTree.fromstring(xml).iter(f"{{{vsva_domain.QEMU_NS}}}arg")
    ]


def with_emulator(xml, content):
    return xml.replace(">/usr/bin/qemu-system-aarch64<", f">{content}<")


def minified(xml):
    return re.sub(r">\s+<", "><", xml)


# Each is a way to write a domain, and is taken as it is.
VARIANTS = {
    "plain": PLAIN,
    "metadata": with_metadata(PLAIN),
    "commandline": with_commandline(PLAIN),
    "iommu": with_iommu(PLAIN),
    "all": with_iommu(with_commandline(with_metadata(PLAIN))),
    "comment": "<!-- a comment -->\n" + PLAIN + "\n<!-- another -->",
    "declaration and byte order mark": "\ufeff<?xml version='1.0' encoding='utf-8'?>\r\n" + PLAIN,
    "no newline at the end": PLAIN.rstrip(),
    "lines that end as on another system": with_commandline(PLAIN).replace("\n", "\r\n"),
    "tabs": with_metadata(PLAIN).replace("  ", "\t"),
    "one line": minified(PLAIN),
    "one line, all": minified(with_iommu(with_commandline(with_metadata(PLAIN)))),
    "apostrophes, space and greater-than signs in tags": PLAIN.replace(
        '<domain type="kvm">', "<domain type = 'kvm' a='>b=\"c\"'\n >"
    ),
    "processing instruction": PLAIN.replace("<os>", "<?what ever?><os>"),
    "emulator in CDATA": with_emulator(PLAIN, "<![CDATA[/usr/bin/qemu-system-aarch64]]>"),
    "emulator with white space": with_emulator(PLAIN, "\n\t/usr/bin/qemu-system-aarch64\r\n "),
    "emulator with a comment": with_emulator(PLAIN, '/usr/bin/<!-- "here" -->qemu'),
    "emulator with references": with_emulator(
        PLAIN, "/opt/it&apos;s&#x20;a&amp;b&lt;&gt;&quot;&#13;/qemu"
    ),
    "emulator of another script": with_emulator(PLAIN, "/opt/\u010desk\u00fd/\U0001f600"),
    "uuid in CDATA": PLAIN.replace(UUID, f"<![CDATA[{UUID}]]>"),
    "uuid in capitals, without hyphens": PLAIN.replace(UUID, UUID.upper().replace("-", "")),
    "line breaks in attributes": with_commandline(
        PLAIN, COMMANDLINE.replace("timestamp=on", "a&#10;b&#13;c&#9;d&#xA;e\nf")
    ),
    "line breaks in text": PLAIN.replace("guest", "gu&#13;est&#10;"),
    "namespace of QEMU without use": PLAIN.replace(
        "<domain ", f'<domain xmlns:qemu="{vsva_domain.QEMU_NS}" '
    ),
    "namespace of QEMU twice": with_commandline(PLAIN).replace(
        "<domain ", f'<domain xmlns:q="{vsva_domain.QEMU_NS}" '
    ),
    "its prefix for another namespace": PLAIN.replace(
        "<domain ", '<domain xmlns:qemu="urn:other" '
    ),
    "its prefixes for other namespaces": PLAIN.replace(
        "<domain ", '<domain xmlns:qemu="urn:a" xmlns:qemu1="urn:b" '
    ),
    "that prefix in use": PLAIN.replace("<domain ", '<domain xmlns:qemu="urn:other" ').replace(
        "<os>", "<qemu:x/><os>"
    ),
    "namespace of QEMU in the element": PLAIN.replace(
        "</domain>",
        COMMANDLINE.replace("commandline>", f'commandline xmlns:qemu="{vsva_domain.QEMU_NS}">', 1)
        + "</domain>",
    ),
    "namespace of QEMU without prefix": PLAIN.replace(
        "</domain>",
        COMMANDLINE.replace("qemu:", "").replace(
            "commandline>", f'commandline xmlns="{vsva_domain.QEMU_NS}">', 1
        )
        + "</domain>",
    ),
    "other element of QEMU's namespace": with_commandline(PLAIN, "  <qemu:override/>\n"),
    "comment alone in commandline": with_commandline(
        PLAIN, "  <qemu:commandline>\n    <!-- mine -->\n  </qemu:commandline>\n"
    ),
    "commandline without anything": with_commandline(PLAIN, "  <qemu:commandline/>\n"),
    "commandline without anything, space in it": with_commandline(
        PLAIN, "<qemu:commandline> </qemu:commandline>"
    ),
    "commandline with space in its tag": with_commandline(PLAIN, "  <qemu:commandline \n/>"),
    "option without value at the end": with_commandline(
        PLAIN, COMMANDLINE.replace('    <qemu:arg value="timestamp=on"/>\n', "")
    ),
    "metadata without anything": PLAIN.replace("  <os>", "  <metadata/>\n  <os>"),
    "metadata without anything, two tags": PLAIN.replace(
        "  <os>", "  <metadata></metadata>\n  <os>"
    ),
    "comment alone in metadata": PLAIN.replace(
        "  <os>", "  <metadata><!-- mine --></metadata>\n  <os>"
    ),
    "metadata and commandline without anything at the end": with_commandline(
        PLAIN, "<metadata/><qemu:commandline/>"
    ),
    "address of the host at the slot": with_device(
        PLAIN,
        "<interface type='hostdev'><source><address type='pci' bus='0x00' slot='0x10'/></source>"
        "</interface>",
    ),
    "address of another bus": with_device(
        PLAIN, "<disk><address type='pci' bus='01' slot='0x10'/></disk>"
    ),
    "address of another kind": with_device(
        PLAIN, "<disk><address type='drive' bus='0' slot='0x10'/></disk>"
    ),
    "address that libvirt chooses": with_device(PLAIN, "<disk><address type='pci'/></disk>"),
    "oldest machine": PLAIN.replace("virt-10.2", "virt-5.0"),
    "deep": PLAIN.replace("<os>", "<a>" * 200 + "</a>" * 200 + "<os>"),
}


ARGUMENTS = [
    "-global",
    "arm-smmuv3.stall=on",
    "-global",
    "arm-smmuv3.ssidsize=8",
    "-chardev",
    f"socket,id=vsva0-chardev,path=/run/vhost-user-vsva/{UUID}.sock,reconnect-ms=100",
    "-device",
    "vhost-user-vsva,id=vsva0,chardev=vsva0-chardev,stop-timeout=2000",
    "-device",
    "vsva-testdev,addr=0x10,bus=pcie.0,vsva=vsva0",
]


class AddAndRemove(unittest.TestCase):
    def test_add_plain_domain_gets_device_iommu_and_emulator(self):
        xml = add(PLAIN, "vsva-testdev,addr=0x10", drain_timeout=7000)
        self.assertEqual(
            arguments(xml),
            [
                value.replace("stop-timeout", "drain-timeout=7000,stop-timeout")
                for value in ARGUMENTS
            ],
        )
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
        changed = add(
            add(PLAIN), "vsva-testdev,addr=0x11", "vsva-testdev,addr=0x12", emulator="/opt/qemu"
        )
        self.assertEqual(sum("vsva-testdev" in value for value in arguments(changed)), 2)
        self.assertIn("<emulator>/opt/qemu</emulator>", changed)
        self.assertEqual(remove(changed), PLAIN)

    def test_timeouts_are_changed_by_add_and_taken_away_by_remove(self):
        xml = add(add(PLAIN), drain_timeout=9000, stop_timeout=0)
        self.assertIn(
            "vhost-user-vsva,id=vsva0,chardev=vsva0-chardev,drain-timeout=9000,stop-timeout=0",
            arguments(xml),
        )
        self.assertEqual(remove(xml), PLAIN)
        self.assertEqual(remove(add(PLAIN).replace(",stop-timeout=2000", "")), PLAIN)

    def test_domain_of_an_earlier_release_is_updated_and_nothing_else_in_it_changes(self):
        for name, xml in VARIANTS.items():
            with self.subTest(name):
                new = add(xml)
                old = of_earlier_release(new)
                self.assertNotEqual(old, new)
                self.assertEqual(update(old), new)
                self.assertEqual(update(new), new)
                single = old.replace('"-chardev"', "'-chardev'")
                self.assertEqual(update(single), new.replace('"-chardev"', "'-chardev'"))

    def test_domain_of_an_earlier_release_is_changed_by_add_and_restored_by_remove(self):
        for name, xml in VARIANTS.items():
            with self.subTest(name):
                old = of_earlier_release(add(xml))
                self.assertEqual(add(old), add(xml))
                self.assertEqual(remove(old), xml)

    def test_update_of_a_domain_without_the_device_is_refused(self):
        with self.assertRaises(vsva_domain.Refused) as refused:
            update(PLAIN)
        self.assertIn('no device of "vsva-domain add"', str(refused.exception))

    def test_update_of_an_argument_that_libvirt_writes_otherwise_is_refused(self):
        xml = of_earlier_release(add(PLAIN)).replace("vsva0-chardev,path", "vsva0-chardev&#44;path")
        with self.assertRaises(vsva_domain.Refused) as refused:
            update(xml)
        self.assertIn("in another way", str(refused.exception))

    def test_add_device_is_seen_by_libvirt_however_the_domain_is_written(self):
        for name, xml in VARIANTS.items():
            with self.subTest(name):
                domain = ElementTree.fromstring(add(xml))
                self.assertEqual(domain.findtext("devices/emulator"), QEMU)
                self.assertEqual(
                    [node.get("model") for node in domain.findall("devices/iommu")], ["smmuv3"]
                )
                (commandline,) = domain.findall(f"{{{vsva_domain.QEMU_NS}}}commandline")
                values = [
                    node.get("value")
                    for node in commandline.findall(f"{{{vsva_domain.QEMU_NS}}}arg")
                ]
                self.assertEqual(values[-len(ARGUMENTS) :], ARGUMENTS)

    def test_remove_without_device_changes_nothing(self):
        for name, xml in VARIANTS.items():
            with self.subTest(name):
                self.assertEqual(remove(xml), xml)

    def test_add_keeps_arguments_and_environment_of_others(self):
        xml = add(with_commandline(PLAIN))
        self.assertEqual(arguments(xml)[:2], ["-msg", "timestamp=on"])
        self.assertIn('<qemu:env name="NAME" value="value"/>', xml)

    def test_add_to_a_clone_gives_it_a_socket_of_its_own(self):
        clone = add(PLAIN).replace(f"<uuid>{UUID}<", f"<uuid>{OTHER}<")
        self.assertIn(f"path=/run/vhost-user-vsva/{UUID}.sock", clone)
        self.assertEqual(add(clone), add(PLAIN.replace(UUID, OTHER)))

    def test_remove_from_a_clone_gives_the_clone_of_what_was_before(self):
        for name, xml in VARIANTS.items():
            with self.subTest(name):
                clone = re.sub(f"(<uuid>[^/]*?){UUID}", rf"\g<1>{OTHER}", add(xml))
                self.assertEqual(remove(clone), xml.replace(UUID, OTHER))

    def test_remove_keeps_what_was_added_by_hand(self):
        arg = '<qemu:arg value="-S"/>'
        xml = (
            add(PLAIN)
            .replace("<qemu:commandline>\n", f"<qemu:commandline>\n    {arg}\n")
            .replace("  </metadata>", "    <mine/>\n  </metadata>")
        )
        removed = remove(xml)
        self.assertIn(f"  <qemu:commandline>\n    {arg}\n  </qemu:commandline>\n", removed)
        self.assertIn("  <metadata>\n    <mine/>\n  </metadata>\n", removed)
        self.assertIn(f'xmlns:qemu="{vsva_domain.QEMU_NS}"', removed)
        self.assertNotIn("vsva", removed)

    def test_remove_of_what_was_removed_by_hand_already_removes_the_rest(self):
        xml = re.sub("  <qemu:commandline>.*</qemu:commandline>\n", "", add(PLAIN), flags=re.DOTALL)
        self.assertEqual(remove(xml.replace('    <iommu model="smmuv3"/>\n', "")), PLAIN)

    def test_remove_what_an_earlier_version_has_added_gives_what_was_before(self):
        xml = add(PLAIN).replace(' metadata="none" commandline="none" namespace="none"', "")
        self.assertEqual(remove(xml), PLAIN)

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

    def assert_both_refused(self, xml, text):
        self.assert_refused(xml, text)
        with self.assertRaises(vsva_domain.Refused) as refused:
            remove(xml)
        self.assertIn(text, str(refused.exception))

    def test_not_understood_is_refused_with_the_reason(self):
        cases = {
            "not XML": (PLAIN[:-5], "not XML"),
            "another document": ("<network/>", "<network>"),
            "document type": ("<!DOCTYPE domain []>" + PLAIN, "document type"),
            "no uuid": (PLAIN.replace(f"  <uuid>{UUID}</uuid>\n", ""), "<uuid>"),
            "bad uuid": (PLAIN.replace(UUID, "../../etc"), "not a UUID"),
            "no emulator": (
                PLAIN.replace("    <emulator>/usr/bin/qemu-system-aarch64</emulator>\n", ""),
                "<emulator>",
            ),
            "two devices": (
                PLAIN.replace("</devices>", "</devices><devices/>"),
                "more than one <devices>",
            ),
            "x86": (PLAIN.replace('"aarch64"', '"x86_64"'), "aarch64 virt"),
            "another machine": (PLAIN.replace("virt-10.2", "raspi4b"), "aarch64 virt"),
            "gic 2": (PLAIN.replace('gic version="3"', 'gic version="2"'), "GICv3"),
            "no gic": (PLAIN.replace('    <gic version="3"/>\n', ""), "GICv3"),
            "virtio iommu": (with_iommu(PLAIN, '<iommu model="virtio"/>'), "smmuv3"),
            "iommu with options": (
                with_iommu(PLAIN, '<iommu model="smmuv3"><driver pciBus="1"/></iommu>'),
                "<iommu>",
            ),
            "two iommus": (with_iommu(with_iommu(PLAIN)), "more than one <iommu>"),
            "machine that this QEMU has no more": (
                PLAIN.replace("virt-10.2", "virt-4.2"),
                "none before virt-5.0",
            ),
            "machine without a number": (
                PLAIN.replace("virt-10.2", "virt-rhel9.2.0"),
                "aarch64 virt",
            ),
            "no emulator named": (with_emulator(PLAIN, " "), "<emulator> is empty"),
            "emulator without end": (
                PLAIN.replace("<emulator>/usr/bin/qemu-system-aarch64</emulator>", "<emulator/>"),
                "is empty",
            ),
            "elements in the emulator": (with_emulator(PLAIN, "<a/>"), "<emulator> has elements"),
            "digits of another script": (
                PLAIN.replace(UUID, UUID.replace("1", "\u0661")),
                "not a UUID",
            ),
            "uuid as a URN": (PLAIN.replace(UUID, f"urn:uuid:{UUID}"), "not a UUID"),
            "everything in a namespace": (
                PLAIN.replace("<domain ", '<domain xmlns="urn:other" '),
                "<domain>, not of a <domain>",
            ),
            "prefix of no namespace": (
                PLAIN.replace("<os>", "<a:b/><os>"),
                "not XML: unbound prefix",
            ),
            "control character": (PLAIN.replace("guest", "gu\x01est"), "not XML"),
            "reference to a control character": (PLAIN.replace("guest", "gu&#1;est"), "not XML"),
            "nothing": ("", "not XML"),
            "entities": (
                '<!DOCTYPE d [<!ENTITY a "aaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>'
                + PLAIN.replace("guest", "&b;"),
                "document type",
            ),
            "deeper than libvirt reads": (
                PLAIN.replace("<os>", "<a>" * 300 + "</a>" * 300 + "<os>"),
                "within one another",
            ),
            "more elements than a domain has": (
                PLAIN.replace("<os>", "<a/>" * 100_000 + "<os>"),
                "more than 100000 elements",
            ),
            "more bytes than libvirt takes": (PLAIN + " " * (4 << 20), "more than 4194304 bytes"),
        }
        for name, (xml, text) in cases.items():
            with self.subTest(name):
                self.assert_refused(xml, text)

    def test_device_of_someone_else_is_refused_by_add_and_remove(self):
        for option, value in (
            ("-device", "vhost-user-vsva,chardev=c"),
            ("-global", "arm-smmuv3.stall=force"),
        ):
            ours = COMMANDLINE.replace("-msg", option).replace("timestamp=on", value)
            xml = with_commandline(PLAIN, ours)
            with self.subTest(value):
                self.assert_both_refused(xml, value)

    def test_device_changed_by_hand_is_refused(self):
        xml = add(PLAIN).replace("chardev=vsva0-chardev", "chardev=vsva0-chardev,queue-size=512")
        self.assert_both_refused(xml, "queue-size=512")

    def test_slot_in_use_is_refused(self):
        self.assert_refused(PLAIN, "slot 0x1", "vsva-testdev,addr=0x1")

    def test_slot_in_use_is_refused_however_it_is_written(self):
        for address in (
            "bus='0x00' slot='0x10'",
            "bus='0' slot='16'",
            "bus='0' slot='020'",
            "slot='0x10'",
            "domain='0' slot='0X10'",
            "bus='0x00' slot='0x10' function='0x7'",
        ):
            xml = with_device(PLAIN, f"<disk><address type='pci' {address}/></disk>")
            with self.subTest(address):
                self.assert_refused(xml, "<disk> is at PCI slot 0x10")
                self.assertEqual(remove(add(xml, "vsva-testdev,addr=0x11")), xml)

    def test_slot_that_is_no_number_is_refused(self):
        for value in ("", "x", "1_6", "0x", "08", "-1", " 1", "9" * 5000):
            with self.subTest(value):
                self.assert_refused(
                    with_device(PLAIN, f"<disk><address type='pci' slot='{value}'/></disk>"),
                    "not a number",
                )

    def test_encoding_other_than_utf_8_is_refused(self):
        head = "<?xml version='1.0' encoding='{}'?>" + PLAIN
        for encoding, declared in (
            ("utf-16", "utf-16"),
            ("utf-16-le", "utf-16"),
            ("utf-32", "utf-32"),
            ("utf-16-be", "utf-8"),
            ("latin-1", "iso-8859-1"),
            ("ascii", "ebcdic"),
            ("ascii", "utf-7"),
            ("shift-jis", "shift-jis"),
            ("ascii", "\u00fc"),
        ):
            with (
                self.subTest(encoding=encoding, declared=declared),
                self.assertRaises(vsva_domain.Refused),
            ):
                vsva_domain.Domain(head.format(declared).encode(encoding, "replace"))
        with self.assertRaisesRegex(vsva_domain.Refused, "not XML"):
            vsva_domain.Domain(PLAIN.replace("guest", "g\u00e4st").encode("latin-1"))

    def test_record_changed_by_hand_is_refused_naming_what(self):
        for old, new, text in (
            ('iommu="none"', 'iommu="maybe"', "(iommu)"),
            (' iommu="none"', "", "(iommu)"),
            ('emulator="/usr/bin/qemu-system-aarch64"', 'emulator=""', "(emulator)"),
            ('emulator="/usr/bin/qemu-system-aarch64"', "", "(emulator)"),
            ('metadata="none"', 'metadata="some" more="1"', "(metadata, more)"),
            ('namespace="none"/>', 'namespace="none">mine</vsva:replaced>', "(its content)"),
            ('namespace="none"/>', 'namespace="none"><a/></vsva:replaced>', "(its content)"),
            (
                "  </metadata>",
                f"<v:replaced xmlns:v='{vsva_domain.OURS_NS}'/></metadata>",
                "more than one <vsva:replaced>",
            ),
            ('emulator="/usr/bin', 'emulator="&lt;a/>', "<emulator> has elements"),
            (
                'emulator="/usr/bin',
                'emulator="&lt;/emulator>&lt;emulator>',
                "more than one <emulator>",
            ),
            ('emulator="/usr/bin', 'emulator="&lt;/emulator>', "not XML"),
        ):
            xml = add(PLAIN).replace(old, new, 1)
            with self.subTest(new):
                self.assert_both_refused(xml, text)

    def test_iommu_changed_by_hand_is_refused(self):
        for iommu in (
            '<iommu model="smmuv3" more="1"/>',
            '<iommu model="virtio"/>',
            '<iommu model="smmuv3"><driver/></iommu>',
        ):
            with self.subTest(iommu):
                self.assert_both_refused(
                    add(PLAIN).replace('<iommu model="smmuv3"/>', iommu), "<iommu> was changed"
                )

    def test_argument_that_only_contains_vsva_is_none_of_ours(self):
        for option, value in (
            ("-name", "vsva-testdev"),
            ("-fw_cfg", "name=opt/vsva,string=vsva0"),
            ("-drive", "file=/images/vsva/arm-smmuv3.img,id=vsva1"),
            ("-chardev", "file,id=log,path=/var/log/vhost-user-vsva.log"),
            ("-device", "virtio-serial,id=vsva0-serial"),
            ("-global", "driver=virtio-blk-device,property=serial,value=vsva"),
        ):
            xml = PLAIN.replace(
                "</domain>",
                f"<qemu:commandline xmlns:qemu='{vsva_domain.QEMU_NS}'><qemu:arg value='{option}'/>"
                f"<qemu:arg value='{value}'/></qemu:commandline></domain>",
            )
            with self.subTest(value):
                self.assertEqual(remove(add(xml)), xml)

    def test_argument_of_ours_added_by_hand_is_refused(self):
        added = add(PLAIN)
        for option, value in (
            ("-device", "vsva-testdev"),
            ("-device", "driver=vhost-user-vsva,chardev=c"),
            ("-device", "virtio-blk,id=vsva0"),
            ("--set", "device.hostdev0.vsva=vsva0"),
            ("-global", "arm-smmuv3.stall=on"),
            ("-device", "other,vsva=vsva0,addr=0x12"),
            ("-device", "other,addr=1_0,bus=pcie.0,vsva=vsva0"),
            ("-device", "other,bus=pcie.0,vsva=vsva0"),
            ("-chardev", f"socket,id=vsva0-chardev,path=/run/vhost-user-vsva/{OTHER}.sock"),
        ):
            xml = added.replace(
                "  </qemu:commandline>",
                f'<qemu:arg value="{option}"/><qemu:arg value="{value}"/></qemu:commandline>',
            )
            with self.subTest(value):
                self.assert_both_refused(xml, f"has '{value}', which does not come from here")

    def test_slot_given_twice_is_refused(self):
        self.assert_refused(
            PLAIN, "the same addr=0x10;", "vsva-testdev,addr=0x10", "vsva-testdev,addr=10"
        )

    def test_device_option_not_understood_is_refused(self):
        for value in (
            "vsva-testdev",
            "vsva-testdev,addr=0x20",
            "vsva-testdev,addr=0",
            "vsva-testdev,addr=x",
            ",addr=0x10",
            "vsva-testdev,addr=0x10,bus=pcie.1",
            "vsva-testdev,addr=0x10,vsva=other",
            "a b,addr=0x10",
            "vsva-testdev,addr=0x10,on",
            "vsva-testdev,addr=1_0",
            "vsva-testdev,addr= 10",
            "vsva-testdev,addr=\u0661",
            "vsva-testdev,addr=0x10,a=\n",
            "vsva-testdev,addr=0x10,a=\x7f",
            "vsva-testdev,addr=0x10,a=\udc80",
        ):
            with self.subTest(value), self.assertRaises(argparse.ArgumentTypeError):
                vsva_domain.Device(value)


class Mutations(unittest.TestCase):
    """Whatever is done to a domain's bytes: it is refused, or goes the way and back unchanged."""

    PIECES = [
        piece.encode()
        for piece in (
            "<",
            ">",
            "/",
            "'",
            '"',
            "&",
            ";",
            " ",
            "\n",
            "\r\n",
            "\0",
            "\ufeff",
            "]]>",
            "<![CDATA[",
            "<!--",
            "-->",
            "<?a?>",
            "&#10;",
            "<a/>",
            "<metadata/>",
            "<qemu:commandline/>",
            "xmlns:qemu",
            "=",
            f' xmlns:qemu="{vsva_domain.QEMU_NS}"',
            ' xmlns:qemu=""',
            ' xmlns=""',
            "<vsva:replaced/>",
            "vsva",
            "slot",
            "0x10",
            "</domain>",
            "\u00e4",
        )
    ] + [b"\xff", b"\xc3"]

    def test_domain_with_bytes_changed_is_refused_or_restored(self):
        # The same ones each time.
        chance = random.Random(1)
        accepted = 0
        seeds = [xml.encode() for xml in VARIANTS.values()]
        seeds += [add(xml).encode() for xml in VARIANTS.values()]
        for turn in range(3000):
            data = bytearray(chance.choice(seeds))
            for _ in range(chance.randint(1, 3)):
                at = chance.randrange(len(data))
                end = at + chance.choice((0, 0, 1, 5, 40))
                data[at:end] = chance.choice((b"", *self.PIECES, data[end : end + 30]))
            with self.subTest(turn):
                try:
                    plain = vsva_domain.Domain(bytes(data)).remove()
                    added = vsva_domain.Domain(plain).add(
                        QEMU, [vsva_domain.Device("vsva-testdev,addr=0x10")]
                    )
                except vsva_domain.Refused:
                    continue
                accepted += 1
                self.assertEqual(vsva_domain.Domain(added).remove(), plain)
                ElementTree.fromstring(added)
        self.assertGreater(accepted, 100)


class Program(unittest.TestCase):
    ADD = ("add", "--emulator", QEMU, "--device", "vsva-testdev,addr=0x10")

    def run_program(self, xml, *options, **how):
        return self.run_on(xml.encode() if isinstance(xml, str) else xml, *options, **how)

    @staticmethod
    def run_on(data, *options, **how):
        done = subprocess.run(
            [sys.executable, "-I", LIBVIRT / "vsva-domain", *options],
            input=data,
            capture_output=True,
            check=False,
            **how,
        )
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    def test_program_add_then_remove_gives_the_first_xml(self):
        status, added, _ = self.run_program(PLAIN, *self.ADD)
        self.assertEqual((status, added), (0, add(PLAIN)))
        self.assertEqual(self.run_program(added, "remove"), (0, PLAIN, ""))
        self.assertEqual(self.run_program(of_earlier_release(added), "update"), (0, added, ""))

    def test_program_reads_a_file_and_prints_utf_8_in_every_locale(self):
        xml = PLAIN.replace("guest", "g\u00e4st \U0001f600")
        with tempfile.NamedTemporaryFile(suffix=".xml") as file:
            file.write(xml.encode())
            file.flush()
            for variables in ({"LC_ALL": "C"}, {"PYTHONIOENCODING": "latin-1"}):
                with self.subTest(variables):
                    self.assertEqual(
                        self.run_program("", *self.ADD, file.name, env=variables), (0, add(xml), "")
                    )

    def test_program_refusal_prints_no_xml(self):
        for xml, text in (
            ("<network/>", "<network>"),
            (b"\xff\xfe<\0", "UTF-8"),
            (PLAIN.replace("<os>", "<a>" * 100_000), "elements"),
        ):
            with self.subTest(text):
                status, output, errors = self.run_program(xml, "remove")
                self.assertEqual((status, output, errors.count("\n")), (1, "", 1), errors)
                self.assertIn("vsva-domain: ", errors)
                self.assertIn(text, errors)

    def test_program_refusal_is_one_short_line_whatever_it_quotes(self):
        xml = with_commandline(
            PLAIN,
            COMMANDLINE.replace("-msg", "-device").replace(
                "timestamp=on", "a,vsva=&#10;a&#13;\x9b" + "b" * 100_000
            ),
        )
        status, output, errors = self.run_program(xml, "remove")
        self.assertEqual((status, output, errors.count("\n")), (1, "", 1))
        self.assertIn("has 'a,vsva= a ?bbb", errors)
        self.assertLess(len(errors), 1100)

    def test_program_file_that_cannot_be_read_or_written_is_an_error(self):
        for options, text in ((("/nonexistent.xml",), "No such file"), (("/",), "Is a directory")):
            with self.subTest(text):
                status, output, errors = self.run_program("", "remove", *options)
                self.assertEqual((status, output, errors.count("\n")), (1, "", 1), errors)
                self.assertIn(text, errors)
        with open("/dev/full", "wb") as full:
            done = subprocess.run(
                [sys.executable, "-I", LIBVIRT / "vsva-domain", "remove"],
                input=PLAIN.encode(),
                stdout=full,
                stderr=subprocess.PIPE,
                check=False,
            )
        self.assertEqual((done.returncode, done.stderr.count(b"\n")), (1, 1), done.stderr)
        self.assertIn(b"No space left", done.stderr)

    def test_program_memory_is_bounded_for_input_without_end(self):
        def limit():
            resource.setrlimit(resource.RLIMIT_AS, (256 << 20, 256 << 20))

        most = PLAIN.replace("<os>", "<a/>" * 99_000 + "<os>")
        most += " " * ((4 << 20) - len(most))
        status, added, errors = self.run_program(most, "remove", preexec_fn=limit)
        self.assertEqual((status, errors), (0, ""))
        self.assertEqual(added, most)
        with open("/dev/zero", "rb") as endless:
            done = subprocess.run(
                [sys.executable, "-I", LIBVIRT / "vsva-domain", "remove"],
                stdin=endless,
                preexec_fn=limit,
                capture_output=True,
                check=False,
            )
        self.assertEqual((done.returncode, done.stdout), (1, b""))
        self.assertIn(b"more than 4194304 bytes", done.stderr)

    def test_program_ended_by_a_signal_says_so_in_a_line(self):
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            with (
                self.subTest(number),
                subprocess.Popen(
                    [sys.executable, "-I", LIBVIRT / "vsva-domain", "remove"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                ) as process,
            ):
                # More than the pipe takes: it is read when all of this is written.
                process.stdin.write(b" " * (1 << 20))
                process.stdin.flush()
                process.send_signal(number)
                output, errors = process.communicate(timeout=60)
                self.assertEqual((process.returncode, output), (128 + number, b""), errors)
                self.assertIn(f"vsva-domain: ended by {number.name}".encode(), errors)
                self.assertEqual(errors.count(b"\n"), 1, errors)

    def test_program_without_standard_error_prints_nothing_else_than_xml(self):
        status, output, _ = self.run_program("<a/>", "remove", preexec_fn=lambda: os.close(2))
        self.assertEqual((status, output), (1, ""))

    def test_program_error_of_the_system_names_what_it_was_doing(self):
        _, _, errors = self.run_program("", "remove", "/nonexistent.xml")
        text = "vsva-domain: cannot read /nonexistent.xml: No such file or directory\n"
        self.assertEqual(errors, text)

    def test_option_not_understood_is_refused(self):
        for options in (
            ("--stop-timeout", "-1"),
            ("--stop-timeout", "2s"),
            ("--stop-timeout", "10001"),
            ("--drain-timeout", "0"),
            ("--drain-timeout", ""),
            ("--emulator", "qemu"),
            ("--emulator", "/qemu\n"),
            ("--emulator", b"/\xff"),
        ):
            with self.subTest(options):
                status, output, errors = self.run_program(PLAIN, *self.ADD, *options)
                self.assertEqual((status, output), (2, ""))
                self.assertNotIn("Traceback", errors)


if __name__ == "__main__":
    unittest.main()
