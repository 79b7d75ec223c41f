"""Networks: they receive numbers and give logits."""
