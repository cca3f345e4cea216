# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
complete -c vsva-domain -n __fish_use_subcommand -f -a add -d 'add the device, or change it'
complete -c vsva-domain -n __fish_use_subcommand -f -a update \
	-d 'write what an earlier release did not'
complete -c vsva-domain -n __fish_use_subcommand -f -a remove -d 'remove the device'
complete -c vsva-domain -s h -l help -d 'show a help message'
complete -c vsva-domain -n '__fish_seen_subcommand_from add' -r -l emulator \
	-d 'QEMU with the series'
complete -c vsva-domain -n '__fish_seen_subcommand_from add' -x -l device -d 'DRIVER,addr=SLOT'
complete -c vsva-domain -n '__fish_seen_subcommand_from add' -x -l drain-timeout \
	-d 'how long a drain may take'
complete -c vsva-domain -n '__fish_seen_subcommand_from add' -x -l stop-timeout \
	-d 'how long save and suspend may wait'
