#!/bin/sh
DKIM=1
. "$(dirname "$0")"/_pigeonry.inc
