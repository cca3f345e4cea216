# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
complete -c vsva-check-device -f -a '(path basename /sys/bus/pci/devices/*)'
complete -c vsva-check-device -s h -l help -d 'show a help message'
complete -c vsva-check-device -l json -d 'print what was found as JSON'
