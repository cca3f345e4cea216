# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Version and changelog of the Debian packages."""

from shell import ShellTest


class Version(ShellTest):
    def version(self, changelog):
        (self.folder / "Cargo.toml").write_text('[package]\nversion = "1.2.0"\n', encoding="utf-8")
        (self.folder / "CHANGELOG.md").write_text(changelog, encoding="utf-8")
        return self.shell("VSVA_ROOT=$FOLDER SOURCE_DATE_EPOCH=86400 deb_version")[0].strip()

    def test_version_before_its_release_is_older_than_the_release(self):
        version = self.version("## Unreleased\n\n## 1.1.0\n")
        self.assertEqual(version, "1.2.0~19700102.000000")
        self.shell(f"dpkg --compare-versions '{version}' lt 1.2.0")
        self.shell(f"dpkg --compare-versions '{version}' gt 1.1.0")

    def test_version_with_its_section_is_the_release(self):
        for heading in ("## 1.2.0", "## 1.2.0 (2026-12-01)", "## [1.2.0] - 2026-12-01"):
            self.assertEqual(self.version(f"{heading}\n\n## 1.1.0\n"), "1.2.0")

    def test_changelog_is_one_that_dpkg_reads(self):
        (self.folder / "debian").mkdir()
        (self.folder / "debian/control").write_text("Maintainer: @MAINTAINER@\n", encoding="utf-8")
        out, _ = self.shell("""
            SOURCE_DATE_EPOCH=86400 DEBFULLNAME=Someone DEBEMAIL=someone@example.org
            DEB_FOLDER=$FOLDER/out
            tree=$(deb_tree name 1.2.0-1 "$FOLDER/debian")
            cat "$tree/debian/control"
            dpkg-parsechangelog --file "$tree/debian/changelog" """)
        self.assertIn("Maintainer: Someone <someone@example.org>\n", out)
        self.assertIn("Version: 1.2.0-1\n", out)
        self.assertIn("Timestamp: 86400\n", out)
