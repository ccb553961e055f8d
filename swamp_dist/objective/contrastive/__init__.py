"""The forms of the contrastive term, and the ways in which a batch is compared with them."""
