"""Step 2: the records, as they are and as the model will see them."""

from tui.screens.data.screen import DataScreen as DataScreen
