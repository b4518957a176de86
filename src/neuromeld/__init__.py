"""neuromeld makes trained Transformers smaller by merging, not deleting.

Names are imported when they are first used; their types are in `__init__.pyi`.
"""

import lazy_loader

from neuromeld.model.native.hook import install

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

install()
