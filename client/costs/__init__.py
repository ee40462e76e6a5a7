"""What studies cost: amounts from the ledger, prices from a file, money by study, model, site."""
