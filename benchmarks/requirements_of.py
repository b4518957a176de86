"""What an installed package needs, one a line, but for some: `python requirements_of.py PACKAGE WITHOUT ...`."""

import re
import sys
from importlib.metadata import requires

package, *without = sys.argv[1:]
for requirement in requires(package) or []:
    name = re.match(r"[\w.-]+", requirement)
    if "extra ==" not in requirement and name is not None and name[0] not in without:
        print(requirement)
