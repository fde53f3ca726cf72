"""How a run works, of any deployment: procedure, run, change, record, ledger, execution, papermill's engine, Lab."""
