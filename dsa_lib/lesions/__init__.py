"""Lesion-aware post-training (notebooks 23 and 24), and sentences that name a lesion."""
