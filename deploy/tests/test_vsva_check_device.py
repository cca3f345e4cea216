# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

import contextlib
import errno
import gzip
import io
import json
import os
import struct
import sys
import tempfile
import time
import unittest
from pathlib import Path
from unittest import mock

from .loader import load

sys.dont_write_bytecode = True
check_device = load("vsva-check-device")

ADDRESS = "0000:01:00.0"
# S1P, S2P, TTF AArch64, ASID16, CD2L, TTENDIAN little, STALL_MODEL 0; SSIDSIZE 8; RIL, FWB.
IDR = [
    1 << 0 | 1 << 1 | 2 << 2 | 1 << 12 | 1 << 19 | 2 << 21,
    8 << 6,
    0,
    1 << 8 | 1 << 10,
    0,
    1 << 4,
]
ANSWERS = {
    "VFIO_DEVICE_BIND_IOMMUFD": 1,
    "VFIO_DEVICE_FEATURE_MIGRATION": 7,
    "IOMMU_GET_HW_INFO": {"type": 2, "pasid_bits": 8, "idr": IDR},
    "NEST_PARENT": 3,
    "IOMMU_VIOMMU_ALLOC": 4,
    "IOMMU_FAULT_QUEUE_ALLOC": 5,
    "nested with the fault queue": 6,
}
PREFETCHABLE, MEMORY = 0x14220C, 0x40200


def config_space(capabilities=(0x11,), extended=(0x1B,), port_type=0):
    data = bytearray(4096)
    struct.pack_into("<HHHH", data, 0, 0x19E5, 0xA250, 0, 1 << 4)
    offsets = [0x40 + 0x10 * number for number in range(len(capabilities) + 1)]
    data[0x34] = offsets[0]
    for at, kind, following in zip(offsets, (0x10, *capabilities), (*offsets[1:], 0)):
        data[at : at + 2] = bytes((kind, following))
    struct.pack_into("<H", data, 0x42, 2 | port_type << 4)
    for number, kind in enumerate(extended):
        at = 0x100 + 0x20 * number
        last = number + 1 == len(extended)
        struct.pack_into("<I", data, at, kind | 1 << 16 | (0 if last else at + 0x20) << 20)
        struct.pack_into("<H", data, at + 4, 10 << 8)
    return bytes(data)


class FakeHost(unittest.TestCase):
    """A tree that has a device with which all is well; each test changes one thing of it."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = Path(folder.name)
        self.answers = {**ANSWERS}
        for name in ("SYSFS", "DEV", "PROC", "BOOT"):
            patch = mock.patch.object(check_device, name, self.root / name.lower())
            patch.start()
            self.addCleanup(patch.stop)
        patch = mock.patch.object(os, "geteuid", lambda: 0)
        patch.start()
        self.addCleanup(patch.stop)
        self.port = self.root / "sysfs/devices/pci0000:00/0000:00:08.0"
        self.device = self.port / ADDRESS
        self.write(self.port / "config", config_space((), (), 4))
        self.write(self.device / "config", config_space())
        for name, text in {
            "vendor": "0x19e5",
            "device": "0xa250",
            "revision": "0x30",
            "class": "0x120000",
            "reset_method": "flr bus",
            "vfio-dev/vfio3/dev": "510:3",
            "resource": "".join(
                f"{start:#x} {end:#x} {flags:#x}\n"
                for start, end, flags in (
                    (0x1000000, 0x100FFFF, MEMORY),
                    (0, 0, 0),
                    (0x2000000, 0x23FFFFF, PREFETCHABLE),
                )
            ),
        }.items():
            self.write(self.device / name, f"{text}\n")
        group = self.root / "sysfs/kernel/iommu_groups/7"
        self.write(group / "reserved_regions", "0x0000000008000000 0x00000000080fffff msi\n")
        self.write(group / "devices" / ADDRESS, "")
        self.link("iommu_group", group)
        self.link("iommu", self.root / "sysfs/devices/iommu/smmu3.0x0000000140000000")
        self.link("driver", self.root / "sysfs/bus/pci/drivers/hisi_acc_vfio_pci")
        bus = self.root / "sysfs/bus/pci/devices"
        bus.mkdir(parents=True)
        (bus / ADDRESS).symlink_to(self.device)
        self.write(self.root / "dev/vfio/devices/vfio3", "")
        self.write(self.root / "dev/iommu", "")
        self.write_options(check_device.OPTIONS)

    @staticmethod
    def write(path, data):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())

    def link(self, name, target):
        path = self.device / name
        path.unlink(missing_ok=True)
        target.mkdir(parents=True, exist_ok=True)
        path.symlink_to(target)

    def write_options(self, names):
        text = "".join(f"{name}=y\n" for name in names)
        self.write(self.root / "proc/config.gz", gzip.compress(text.encode()))

    def run_tool(self, *words):
        """Exit status, and what is known of the device."""
        out, err = io.StringIO(), io.StringIO()
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            mock.patch.object(check_device, "in_time", lambda *_: self.answers),
        ):
            status = check_device.main([*words, ADDRESS, "--json"])
        self.report = err.getvalue()
        return status, json.loads(out.getvalue())[ADDRESS]

    def assert_passes(self):
        status, found = self.run_tool()
        self.assertEqual((status, found["failed"]), (0, {}), self.report)
        return found

    def assert_fails(self, name, text):
        """In that check alone, with an advice; no command line is printed."""
        status, found = self.run_tool()
        self.assertEqual((status, list(found["failed"])), (1, [name]), self.report)
        self.assertIn(text, found["failed"][name])
        self.assertNotIn("qemu", found)
        lines = self.report.splitlines()
        at = next(number for number, line in enumerate(lines) if line.startswith("FAIL"))
        self.assertRegex(lines[at + 1], "^      [^ ]")

    def assert_unknown(self, name, text):
        status, found = self.run_tool()
        self.assertEqual((status, found["failed"]), (0, {}), self.report)
        self.assertIn(text, found["unknown"][name])
        return found


class Sysfs(FakeHost):
    def test_device_with_all_it_needs_passes_with_the_command_line(self):
        found = self.assert_passes()
        self.assertEqual(found["unknown"], {})
        self.assertEqual(list(found["checks"]), list(check_device.CHECKS))
        self.assertEqual(
            found["qemu"][-1],
            f"-device vfio-pci,host={ADDRESS},bus=pcie.0,iommufd=iommufd0,vsva=vsva0",
        )
        self.assertIn("arm-smmuv3.stall=on -global arm-smmuv3.ssidsize=8", found["qemu"][1])
        self.assertIn(f"    {found['qemu'][-1]}", self.report.splitlines())

    def test_device_that_is_not_there_fails_without_other_checks(self):
        (self.root / "sysfs/bus/pci/devices" / ADDRESS).unlink()
        self.assert_fails("device", "is not there")
        self.assertEqual(len(self.report.splitlines()), 3)

    def test_device_without_driver_fails_naming_the_drivers(self):
        (self.device / "driver").unlink()
        self.assert_fails("driver", "bound to no driver")

    def test_device_of_another_driver_fails_with_its_name(self):
        self.link("driver", self.root / "sysfs/bus/pci/drivers/hisi_zip")
        (self.device / "vfio-dev/vfio3/dev").unlink()
        (self.device / "vfio-dev/vfio3").rmdir()
        status, found = self.run_tool()
        self.assertEqual((status, list(found["failed"])), (1, ["driver", "cdev"]))
        self.assertIn("bound to hisi_zip", found["failed"]["driver"])
        self.assertIn("nothing to ask it by", found["unknown"]["bind"])

    def test_device_without_cdev_or_iommufd_fails_with_the_file(self):
        for path in ("dev/vfio/devices/vfio3", "dev/iommu"):
            with self.subTest(path):
                (self.root / path).unlink()
                self.assert_fails("cdev", path.rpartition("/")[2])
                self.write(self.root / path, "")

    def test_device_behind_another_iommu_fails(self):
        self.link("iommu", self.root / "sysfs/devices/iommu/dmar0")
        self.assert_fails("IOMMU", "behind the IOMMU dmar0")

    def test_device_without_iommu_fails(self):
        (self.device / "iommu").unlink()
        self.assert_fails("IOMMU", "no IOMMU translates its DMA")

    def test_group_with_others_fails_naming_them(self):
        self.write(self.root / "sysfs/kernel/iommu_groups/7/devices/0000:01:00.1", "")
        self.assert_fails("group", "has 0000:01:00.1 as well")

    def test_device_behind_a_bridge_to_pci_fails(self):
        self.write(self.port / "config", config_space((), (), 7))
        self.assert_fails("stream IDs", "behind the PCI bridge 0000:00:08.0")

    def test_device_without_reset_is_told(self):
        (self.device / "reset_method").unlink()
        self.assert_unknown("reset", "no way to reset it")

    def test_device_without_pasid_fails(self):
        self.write(self.device / "config", config_space(extended=()))
        self.assert_fails("PASID", "no PASID capability")

    def test_device_with_pri_only_fails(self):
        self.write(self.device / "device", "0x1234\n")
        self.write(self.device / "config", config_space(extended=(0x0F, 0x13, 0x1B)))
        self.assert_fails("stall", "by PRI only")

    def test_device_that_is_not_known_to_stall_fails(self):
        for name, value in {"device": "0xa257", "revision": "0x20", "vendor": "0x1b36"}.items():
            with self.subTest(name):
                before = (self.device / name).read_bytes()
                self.write(self.device / name, f"{value}\n")
                self.assert_fails("stall", "nothing says that its DMA stalls")
                self.write(self.device / name, before)

    def test_device_that_the_device_tree_lets_stall_passes(self):
        self.write(self.device / "device", "0x1234\n")
        self.write(self.device / "of_node/dma-can-stall", "")
        self.assert_passes()

    def test_pri_beside_stalls_is_told_and_passes(self):
        self.write(self.device / "config", config_space(extended=(0x0F, 0x13, 0x1B)))
        self.assertIn("ATS and PRI", self.assert_passes()["checks"]["PASID"]["found"])

    def test_msi_without_its_doorbell_fails(self):
        for kind, name in ((0x05, "MSI"), (0x11, "MSI-X")):
            with self.subTest(name):
                self.write(self.device / "config", config_space((kind,)))
                path = self.root / "sysfs/kernel/iommu_groups/7/reserved_regions"
                self.write(path, "0x0000000010000000 0x00000000100fffff msi\n")
                self.assert_fails("MSI", f"has {name}, and the host's IOMMU does not have its")

    def test_device_without_msi_needs_no_doorbell(self):
        self.write(self.device / "config", config_space(()))
        (self.root / "sysfs/kernel/iommu_groups/7/reserved_regions").unlink()
        self.assert_passes()

    def test_portal_that_is_not_clear_is_asked_for(self):
        for flags, count in ((MEMORY, 0), (PREFETCHABLE, 2)):
            with self.subTest(count):
                line = f"0x1000000 0x100ffff {flags:#x}\n"
                self.write(self.device / "resource", line + line)
                found = self.assert_unknown("portal", f"{count} BARs are prefetchable")
                self.assertTrue(found["qemu"][-1].endswith(",vsva-portal=N"))

    def test_device_without_memory_fails(self):
        self.write(self.device / "resource", "0x1000 0x100f 0x40101\n")
        self.assert_fails("portal", "no BAR of memory")

    def test_config_space_that_goes_in_circles_ends(self):
        data = bytearray(config_space((0x11, 0x05)))
        data[0x51] = 0x40
        struct.pack_into("<I", data, 0x100, 0x1B | 1 << 16 | 0x100 << 20)
        self.write(self.device / "config", bytes(data))
        self.assert_passes()

    def test_capabilities_that_are_not_shown_are_not_guessed(self):
        self.write(self.device / "config", config_space()[:64])
        for name in ("PASID", "MSI"):
            self.assert_unknown(name, "can only be read by root")

    def test_files_of_sysfs_that_make_no_sense_fail_with_their_check(self):
        self.write(self.device / "resource", "what\n")
        self.assert_fails("portal", "is not understood")
        self.write(self.device / "resource", bytes(check_device.MOST_READ + 1))
        self.assert_fails("portal", "more than")


class Options(FakeHost):
    def test_kernel_without_an_option_fails_naming_it(self):
        for name in check_device.OPTIONS:
            with self.subTest(name):
                self.write_options(set(check_device.OPTIONS) - {name})
                self.assert_fails("kernel options", name)

    def test_options_are_read_in_boot(self):
        (self.root / "proc/config.gz").unlink()
        text = "".join(f"{name}=m\n" for name in check_device.OPTIONS)
        self.write(self.root / f"boot/config-{os.uname().release}", text)
        self.assertIn("boot/config-", self.assert_passes()["checks"]["kernel options"]["found"])

    def test_options_that_are_nowhere_are_told(self):
        (self.root / "proc/config.gz").unlink()
        self.assert_unknown("kernel options", "cannot be read")

    def test_options_that_are_not_gzip_are_told(self):
        self.write(self.root / "proc/config.gz", b"what")
        self.assert_unknown("kernel options", "cannot be read")


class Kernel(FakeHost):
    def fail(self, name, number):
        named = check_device.errno_name(OSError(number, ""))
        self.answers[name] = {"errno": named, "text": os.strerror(number)}

    def set_idr(self, register, at, bits, value):
        idr = list(IDR)
        idr[register] = idr[register] & ~(((1 << bits) - 1) << at) | value << at
        self.answers["IOMMU_GET_HW_INFO"] = {"type": 2, "pasid_bits": 8, "idr": idr}

    def test_question_that_is_refused_fails_its_check(self):
        for name, number, check in (
            ("VFIO_DEVICE_BIND_IOMMUFD", errno.EPERM, "bind"),
            ("VFIO_DEVICE_BIND_IOMMUFD", errno.EBUSY, "bind"),
            ("IOMMU_GET_HW_INFO", errno.EOPNOTSUPP, "ID registers"),
            ("NEST_PARENT", errno.EOPNOTSUPP, "nesting"),
            ("IOMMU_VIOMMU_ALLOC", errno.EOPNOTSUPP, "nesting"),
            ("IOMMU_FAULT_QUEUE_ALLOC", errno.ENOTTY, "fault queue"),
            ("nested with the fault queue", errno.EOPNOTSUPP, "fault queue"),
            ("VFIO_DEVICE_FEATURE_MIGRATION", errno.ENOTTY, "migration"),
        ):
            with self.subTest(name, errno=number):
                self.answers = {**ANSWERS}
                self.fail(name, number)
                self.assert_fails(check, f"{name} failed: {self.answers[name]['errno']}")

    def test_host_without_nesting_is_told_what_it_needs(self):
        for name, text in (
            ("NEST_PARENT", "no stage 2 in which the guest's page tables can be nested"),
            ("IOMMU_VIOMMU_ALLOC", "CONFIG_ARM_SMMU_V3_IOMMUFD, and an SMMUv3 with both stages"),
        ):
            with self.subTest(name):
                self.answers = {**ANSWERS}
                self.fail(name, errno.EOPNOTSUPP)
                self.assert_fails("nesting", f"{name} failed: EOPNOTSUPP")
                self.assertIn(text, self.report)

    def test_each_id_register_that_is_wanted_is_looked_at(self):
        for register, at, bits, value, text in (
            (0, 2, 2, 1, "IDR0.TTF"),
            (0, 21, 2, 3, "IDR0.TTENDIAN"),
            (0, 12, 1, 0, "IDR0.ASID16"),
            (0, 19, 1, 0, "IDR0.CD2L"),
            (1, 6, 5, 0, "IDR1.SSIDSIZE"),
            (0, 24, 2, 1, "IDR0.STALL_MODEL 1"),
        ):
            with self.subTest(text):
                self.set_idr(register, at, bits, value)
                self.assert_fails("ID registers", text)

    def test_another_type_of_iommu_fails(self):
        self.answers["IOMMU_GET_HW_INFO"] = {"type": 1, "pasid_bits": 8}
        self.assert_fails("ID registers", "not behind an SMMUv3 in the host")

    def test_what_the_smmu_has_is_in_the_command_line(self):
        for register, at, bits, value, text in (
            (0, 24, 2, 2, "arm-smmuv3.stall=force"),
            (1, 6, 5, 4, "arm-smmuv3.ssidsize=4"),
            (3, 10, 1, 0, "arm-smmuv3.ril=off"),
        ):
            with self.subTest(text):
                self.set_idr(register, at, bits, value)
                self.assertIn(text, self.assert_passes()["qemu"][1])

    def test_smmu_that_forces_stalls_needs_no_word_of_the_device(self):
        self.write(self.device / "device", "0x1234\n")
        self.set_idr(0, 24, 2, 2)
        self.assert_passes()

    def test_migration_states_are_named(self):
        self.answers["VFIO_DEVICE_FEATURE_MIGRATION"] = 1
        found = self.assert_passes()["checks"]["migration"]["found"]
        self.assertRegex(found, "^STOP_COPY; without P2P")
        self.answers["VFIO_DEVICE_FEATURE_MIGRATION"] = 2
        self.assert_fails("migration", "not STOP_COPY")

    def test_kernel_that_does_not_answer_fails(self):
        self.answers = {"late": "the kernel has not answered within 30 s"}
        status, found = self.run_tool()
        self.assertEqual(status, 1)
        self.assertIn("has not answered", found["failed"]["bind"])

    def test_user_who_is_not_root_is_told_what_was_not_asked(self):
        with mock.patch.object(os, "geteuid", lambda: 1):
            found = self.assert_unknown("bind", "only root may ask")
        self.assertNotIn("qemu", found)

    def test_answers_of_another_process_are_bounded_in_time_and_size(self):
        self.assertEqual(check_device.in_time(lambda value: [value], 7), [7])
        with mock.patch.object(check_device, "TIMEOUT", 0):
            self.assertIn("late", check_device.in_time(lambda _: time.sleep(600), None))
        with self.assertRaises(ValueError):
            check_device.in_time(lambda _: "x" * check_device.MOST_ANSWERS * 2, None)
        with self.assertRaises(ValueError), contextlib.redirect_stderr(io.StringIO()):
            check_device.in_time(lambda _: {}[0], None)


class Numbers(unittest.TestCase):
    def test_layouts_have_the_sizes_of_the_headers(self):
        # linux/iommufd.h and linux/vfio.h
        for layout, size in (
            ("BIND", 24),
            ("HW_INFO", 40),
            ("SMMUV3_INFO", 40),
            ("IOAS", 12),
            ("HWPT", 48),
            ("VIOMMU", 40),
            ("FAULT_QUEUE", 16),
            ("FEATURE", 16),
        ):
            self.assertEqual(getattr(check_device, layout).size, size, layout)

    def test_address_that_is_none_is_refused(self):
        for word in ("1", "0000:01:00", "0000:01:20.0", "0000:01:00.8", "../../etc"):
            with self.subTest(word), self.assertRaises(SystemExit) as ended:
                with contextlib.redirect_stderr(io.StringIO()):
                    check_device.main([word])
            self.assertEqual(ended.exception.code, 2)

    def test_address_without_domain_is_of_the_first(self):
        self.assertEqual(check_device.address("0A:1f.7"), "0000:0a:1f.7")


if __name__ == "__main__":
    unittest.main()
