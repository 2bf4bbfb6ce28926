"""What estimates are measured by: FLOPs, trained models, their losses."""
