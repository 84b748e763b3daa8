#!/bin/sh
DKIM=0
. "$(dirname "$0")"/_pigeonry.inc
