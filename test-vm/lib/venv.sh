# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# shellcheck shell=bash

# venv_path NAME: the Python environment with requirements/NAME.txt
venv_path()
{
	local requirements=$VSVA_TEST_VM/requirements/$1.txt key

	key=$({
		digest_files "$requirements" "$VSVA_TEST_VM/make/venv"
		python3 --version
	} | digest)
	cache_make "venv-$1" "$key" venv "$requirements"
}
