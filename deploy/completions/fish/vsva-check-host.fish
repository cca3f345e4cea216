# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
complete -c vsva-check-host -s h -l help -d 'show a help message'
complete -c vsva-check-host -r -l emulator -d 'QEMU with the series'
complete -c vsva-check-host -l json -d 'print what was found as JSON'
complete -c vsva-check-host -r -l against -d 'what --json has printed on the destination'
complete -c vsva-check-host -x -l device -d 'check this PCI function of the host too'
