//! CEL expressions as the syntax tree Envoy takes (google.api.expr.v1alpha1).

use base64::Engine;
use cel::common::ast::{EntryExpr, Expr, IdedEntryExpr, IdedExpr, LiteralValue};
use cp_model::policy::Require;
use serde_json::{Value, json};

/// All of them must be true.
pub(crate) fn all(require: &[&Require]) -> Option<Value> {
    let mut ids = Ids(0);
    let mut parts = require.iter().map(|r| ids.expr(&r.expr));
    let first = parts.next()?;
    let rest: Vec<Value> = parts.collect();
    Some(rest.into_iter().fold(first, |left, right| ids.call("_&&_", None, vec![left, right])))
}

/// Numbers nodes anew, because ids must be unique over all parts.
struct Ids(i64);

impl Ids {
    fn node(&mut self, kind: &str, value: Value) -> Value {
        self.0 += 1;
        json!({ "id": self.0.to_string(), kind: value })
    }

    fn call(&mut self, function: &str, target: Option<Value>, args: Vec<Value>) -> Value {
        let mut call = json!({ "function": function, "args": args });
        if let Some(target) = target {
            call["target"] = target;
        }
        self.node("call_expr", call)
    }

    fn expr(&mut self, node: &IdedExpr) -> Value {
        match &node.expr {
            Expr::Unspecified => self.node("const_expr", json!({ "null_value": null })),
            Expr::Ident(name) => self.node("ident_expr", json!({ "name": name })),
            Expr::Literal(literal) => self.node("const_expr", constant(literal)),
            Expr::Select(select) => {
                let operand = self.expr(&select.operand);
                let value = json!({ "operand": operand, "field": select.field, "test_only": select.test });
                self.node("select_expr", value)
            }
            Expr::Call(call) => {
                let target = call.target.as_ref().map(|t| self.expr(t));
                let args = call.args.iter().map(|a| self.expr(a)).collect();
                self.call(&call.func_name, target, args)
            }
            Expr::List(list) => {
                let elements: Vec<Value> = list.elements.iter().map(|e| self.expr(e)).collect();
                self.node("list_expr", json!({ "elements": elements }))
            }
            Expr::Map(map) => {
                let entries: Vec<Value> = map.entries.iter().map(|e| self.entry(e)).collect();
                self.node("struct_expr", json!({ "entries": entries }))
            }
            Expr::Struct(object) => {
                let entries: Vec<Value> = object.entries.iter().map(|e| self.entry(e)).collect();
                self.node("struct_expr", json!({ "message_name": object.type_name, "entries": entries }))
            }
            Expr::Comprehension(c) => {
                let value = json!({
                    "iter_var": c.iter_var,
                    "iter_range": self.expr(&c.iter_range),
                    "accu_var": c.accu_var,
                    "accu_init": self.expr(&c.accu_init),
                    "loop_condition": self.expr(&c.loop_cond),
                    "loop_step": self.expr(&c.loop_step),
                    "result": self.expr(&c.result),
                });
                self.node("comprehension_expr", value)
            }
        }
    }

    fn entry(&mut self, entry: &IdedEntryExpr) -> Value {
        self.0 += 1;
        let id = self.0.to_string();
        match &entry.expr {
            EntryExpr::StructField(f) => json!({ "id": id, "field_key": f.field, "value": self.expr(&f.value) }),
            EntryExpr::MapEntry(m) => {
                let key = self.expr(&m.key);
                json!({ "id": id, "map_key": key, "value": self.expr(&m.value) })
            }
        }
    }
}

fn constant(literal: &LiteralValue) -> Value {
    match literal {
        LiteralValue::Boolean(b) => json!({ "bool_value": *b.inner() }),
        LiteralValue::Int(i) => json!({ "int64_value": i.inner().to_string() }),
        LiteralValue::UInt(u) => json!({ "uint64_value": u.inner().to_string() }),
        LiteralValue::Double(d) => json!({ "double_value": *d.inner() }),
        LiteralValue::String(s) => json!({ "string_value": s.inner() }),
        LiteralValue::Bytes(b) => {
            json!({ "bytes_value": base64::engine::general_purpose::STANDARD.encode(b.inner()) })
        }
        LiteralValue::Null => json!({ "null_value": null }),
    }
}
