"""What the operator sees of Redis, and the little that it does there. Redis itself is reached through `server`.

watch is what the reconciler asks; behind it, one endpoint for each way to reach a server, with one connection that all
its StreamConsumers share. access makes that way of a resource and its Secrets, sight is what is asked and what the
answers mean, judgement when it is no longer healthy, groups what is written: a group that is missing, consumers of
pods that are gone, a group that is to go.

Nothing here is in the way of a pod: whoever cannot look says so in a condition, and the pods go on by themselves.
"""
