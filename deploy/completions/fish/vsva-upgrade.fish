# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
complete -c vsva-upgrade -s h -l help -d 'show a help message'
complete -c vsva-upgrade -l check -d 'only say which can be upgraded'
complete -c vsva-upgrade -l again -d 'those as well that run the installed program'
