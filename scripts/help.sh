# Sourced by the other scripts, with their arguments: for --help, print the comment at the script's top and end.
if [ "${1:-}" = --help ] || [ "${1:-}" = -h ]; then
  sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
  exit 0
fi
